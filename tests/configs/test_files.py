"""A config file as editors save it: a byte order mark is no part of it, and what is no text is named."""

from __future__ import annotations

import pytest

from nla_sdk.errors import InputError
from tests import configs
from training.configs.config import Config


def written(folder) -> str:
    return configs.write(folder, configs.sections(folder, "b", extract={"sources": [{"corpus": "."}]})).read_text(
        "utf-8"
    )


def test_a_byte_order_mark_before_a_config_is_no_part_of_it(tmp_path):
    text, file = written(tmp_path), tmp_path / "config.yaml"
    expected = Config.load(file)
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert Config.load(file) == expected


@pytest.mark.parametrize(
    ("content", "overrides", "says"),
    [
        (lambda text: text.encode("utf-16"), None, "config.yaml is UTF-16 text.*save it as UTF-8"),
        (lambda text: text.replace("base: b", 'base: "\\ud83d"').encode(), None, "'base' holds half a surrogate pair"),
        (lambda text: (text + 'marker: "\\udc00"').encode(), None, "'marker' holds half a surrogate pair"),
        (lambda text: text.encode(), {"av.template": "\ud83d {injection_char}"}, "'template' holds half"),
        (lambda text: text.encode() + b"\0", None, "not valid YAML"),
    ],
)
def test_what_is_no_text_in_a_config_is_named(tmp_path, content, overrides, says):
    file = tmp_path / "config.yaml"
    file.write_bytes(content(written(tmp_path)))
    with pytest.raises(InputError, match=says):
        Config.load(file, overrides)
