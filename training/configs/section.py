"""A part of a config file: a pydantic model that refuses what it does not know."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from nla_sdk.errors import InputError, first_line

if TYPE_CHECKING:
    from typing import Self


class Section(BaseModel):
    """A part of a config file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def read(cls, path: Path, what: str) -> Self:
        """Read a YAML file of this shape.

        Args:
            what: the file is, for messages.
        Raises:
            InputError: it is missing or malformed; the message names the key.
        """
        try:
            return cls.model_validate(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise InputError(f"Cannot read the {what} {path}: {error.strerror}.") from error
        except yaml.YAMLError as error:
            raise InputError(f"The {what} {path} is not valid YAML: {first_line(error)}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise InputError(
                f"The {what} {path}: {where}: {first['msg']} (found {first.get('input')!r:.60})."
            ) from None
