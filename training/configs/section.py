"""A part of a config file: a pydantic model that refuses what it does not know."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from nla_sdk.errors import InputError, first_line
from nla_sdk.io.text import ENCODING, half_in, not_utf8

if TYPE_CHECKING:
    from typing import Self


class Section(BaseModel):
    """A part of a config file; unknown keys are errors, NaN and infinity too."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @classmethod
    def read(cls, path: Path, what: str) -> Self:
        """Read a YAML file of this shape.

        Args:
            what: the file is, for messages.
        Raises:
            InputError: it is missing or malformed; the message names the key.
        """
        return cls.checked(read_yaml(path, what), f"The {what} {path}")

    @classmethod
    def checked(cls, values: Any, where: str, overrides: Container[str] = ()) -> Self:
        """Validate what was read.

        Args:
            where: it was read, for messages.
            overrides: dotted names whose values are of the command line instead.
        Raises:
            InputError: it is malformed; the message names the key.
        """
        if (held := half_in(values)) is not None:  # YAML's "\ud83d", of which tokenizers and files die
            raise InputError(f"{where}: {held} holds half a surrogate pair, which is no text.")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            path = [str(part) for part in first["loc"]]
            key = ".".join(path) or "the file"
            set_here = any(".".join(path[:length]) in overrides for length in range(1, len(path) + 1))
            found = f"{first.get('input')!r:.60}" + (", set on the command line" if set_here else "")
            raise InputError(f"{where}: {key}: {first['msg']} (found {found}).") from None


def read_yaml(path: Path, what: str) -> Any:
    """What a YAML file holds.

    Raises:
        InputError: it cannot be read, or is no YAML.
    """
    try:
        return yaml.safe_load(Path(path).read_text(encoding=ENCODING))
    except OSError as error:
        raise InputError(f"Cannot read the {what} {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"The {what} {path} {not_utf8(Path(path), error)}.") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date
        raise InputError(f"The {what} {path} is not valid YAML: {first_line(error)}") from error
