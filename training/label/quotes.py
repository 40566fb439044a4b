"""An explanation's quoted spans, and its prose without them."""

from __future__ import annotations

import re

_QUOTED = re.compile(r'"([^"]*)"|“([^”]*)”|«([^»]*)»|`([^`]*)`')


def quotes(text: str) -> str:
    """Its quoted spans alone, without the quote marks; empty where it has none."""
    found = ("".join(groups).strip() for groups in _QUOTED.findall(text))
    return " ".join(span for span in found if span)


def prose(text: str) -> str:
    """It without its quoted spans.

    Example:
        >>> prose('Ends in "the city of". Likely next: "Paris".')
        'Ends in . Likely next: .'
    """
    return " ".join(_QUOTED.sub(" ", text).split()).strip()
