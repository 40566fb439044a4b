"""The prompts of the census (RELEASES.md §2), byte for byte, as their authors wrote them: no fields but the marker."""

from __future__ import annotations

import hashlib

MARKERS = ("㈎", "㈜", "㊗", "㎡", "★")

_OPENING = (
    "You are a meticulous AI researcher conducting an important investigation into activation vectors from a language "
    "model. Your overall task is to describe the semantic content of that activation vector.\n\n"
)
_TASK = (
    "We will pass the vector enclosed in <concept> tags into your context. You must then produce an explanation for "
    "the vector, enclosed within <explanation> tags. The explanation consists of 2-3 text snippets describing that "
    "vector."
)
_VECTOR = "\n\nHere is the vector:\n\n<concept>{injection_char}</concept>"
KITFT = f"{_OPENING}{_TASK}{_VECTOR}\n\nPlease provide an explanation."
SEED = f"{_OPENING}{_TASK}{_VECTOR}"
OPEN = f"{KITFT}\n\n<explanation>"
DEPTH = (
    f"{_OPENING}We will pass the vector enclosed in <concept> tags into your context, along with the network depth "
    "where it was extracted. You must then produce an explanation for the vector, enclosed within <explanation> tags. "
    "The explanation consists of 2-3 text snippets describing that vector.\n\n"
    "Here is the vector from depth {depth}% of the network:\n\n<concept>{injection_char}</concept>\n\n"
    "Please provide an explanation.\n\n<explanation>"
)
LIST = (
    f"{_OPENING}We will pass the vector enclosed in <concept> tags into your context. You must then produce a list of "
    "short text descriptions of that vector, one per line, ordered from the most to the least salient aspect."
    f"{_VECTOR}\n\nPlease provide the list."
)
BULLETS = (
    f"{_OPENING}We will pass the vector enclosed in <concept> tags into your context. You must then describe that "
    "vector as a list of bullet points, one per line, ordered from the most to the least salient aspect."
    f"{_VECTOR}\n\nPlease provide the bullet points."
)
OLENS = (
    "An activation vector from layer {layer} of a language model is enclosed in activation tags: "
    "<activation>{injection_char}</activation>. Produce distinct concepts that encode this activation, each as a '- ' "
    "bullet on its own line."
)
TAGGED = "A vector of {model_tag}: <concept>{injection_char}</concept>\n\nPlease provide an explanation."
SPAN = "Here is a vector of layer {layer}: <concept>{injection_char}</concept>\n\nWhich span is it?"
SEVERAL = "Here are vectors of several layers: <concept>{injection_char}</concept>\n\nPlease provide an explanation."
ORACLE = "Layer: {layer}\n{injection_char} \n{question}"
AR = "Summary of the following text: <text>{explanation}</text> <summary>"
AR_DEPTH = "Summary of the following text from depth {depth}%: <text>{explanation}</text> <summary>"

ALL = {name: value for name, value in globals().items() if name.isupper() and isinstance(value, str)}
TEXTS = [
    "",
    "a cat",
    "An old sailor mends a net. ",
    "x",
    "Numbers: 4, 5 and 6",
    "dogs and the sea " * 9,
    "?",
    "It rains.",
]

assert len(KITFT) == 520 and hashlib.sha256(KITFT.encode()).hexdigest().startswith("054c09450507")
