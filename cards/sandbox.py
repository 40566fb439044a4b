"""The sandbox that templates are filled in: their filters and phrases; whatever is undefined is an error.

Templates get strings from repositories and from files of strangers. Autoescaping knows HTML only, so every such string
goes through a filter that fits its place: `inert` in Markdown, `literal` in Python, `bibtex`, `link`, `url`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from nla_sdk.contract import EXPLANATION_FIELD, MARKER_FIELD
from nla_sdk.evaluation.measures import CONDITIONS
from nla_sdk.evaluation.reading import digest

from . import phrases, text
from .notes import tidy

if TYPE_CHECKING:
    from jinja2 import Environment

BUNDLED = ("demo/av", "demo/ar")  # halves that come with nla-sdk, and no repositories


def fill(template: str, **values: Any) -> str:
    """The Markdown that a template makes of the values, without the blank lines its branches leave.

    Args:
        template: its name in cards/templates, without `.jinja2`.
    """
    return tidy(_environment().get_template(f"{template}.jinja2").render(values))


@cache
def _environment() -> Environment:
    from jinja2 import PackageLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        loader=PackageLoader("cards"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "inert": text.inert,
        "number": text.number,
        "plain": text.plain,
        "signed": text.signed,
        "percent": text.percent,
        "rough_percent": text.rough_percent,
        "figure": text.figure,
        "interval_percent": text.interval_percent,
        "p": text.p_value,
        "share": text.share,
        "times": text.times,
        "size": text.size,
        "literal": text.literal,
        "bibtex": text.bibtex,
        "link": text.link,
        "digest": digest,
        "url": quote,
        "losing": phrases.losing,
        "beaten": phrases.beaten,
        "worded": phrases.worded,
        "receipt": phrases.receipt,
    }
    environment.tests["bundled"] = lambda repo: repo in BUNDLED
    environment.globals |= {
        "phrases": phrases,
        "CONDITIONS": CONDITIONS,
        "MARKER_FIELD": MARKER_FIELD,
        "EXPLANATION_FIELD": EXPLANATION_FIELD,
    }
    return environment
