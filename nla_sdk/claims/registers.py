"""What kind of text a text is, by its surface: the registers that labels without a language model name."""

from __future__ import annotations

import re

REGISTERS = frozenset(
    {
        "python code",
        "command-line help",
        "technical documentation",
        "a worked sum",
        "a medical study",
        "a political speech",
        "dialogue in a story",
        "a factual account with figures",
        "a narrative about a person",
        "a first-person narrative",
        "expository prose",
    }
)
"""All that `register_of` can give, in lower case."""


def register_of(text: str) -> str:
    """What kind of text this is, by its surface: a few words."""
    letters = max(len(text), 1)
    if re.search(r"^\s*(def |class |import |from \w+ import|return |>>> )", text, re.MULTILINE):
        return "Python code"
    if text.count("`") >= 2 and re.search(r"^- ", text, re.MULTILINE):
        return "command-line help"
    if text.count("``") >= 2 or re.search(r"[a-z]\(\)|\w_\w|::", text):
        return "technical documentation"
    if re.search(r"\d\s*[-+*/x=]\s*\$?\d|How (many|much)", text):
        return "a worked sum"
    if re.search(r"\b(patients?|clinical|treatment|cohort|diagnos\w+|p ?[<=] ?0|95% CI|surg\w+|disease)\b", text):
        return "a medical study"
    if re.search(r"\b(I|we|our|my)\b", text) and re.search(
        r"\b(Congress|nation|citizens|Government|freedom|America\w*|peace|country)\b", text
    ):
        return "a political speech"
    if text.count('"') + text.count("“") + text.count("'") >= 4 and re.search(
        r"\b(said|asked|cried|replied|I|you)\b", text
    ):
        return "dialogue in a story"
    if sum(char.isdigit() for char in text) / letters > 0.03:
        return "a factual account with figures"
    if re.search(r"\b(he|she|his|her|him)\b", text) and re.search(r"\b\w+ed\b", text):
        return "a narrative about a person"
    if re.search(r"\b(I|me|my)\b", text):
        return "a first-person narrative"
    return "expository prose"
