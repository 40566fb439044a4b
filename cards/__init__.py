"""Renders cards: a contract and an evaluation file → Markdown and figures. Knows nothing of torch.

Example:
    >>> from cards import About, render
    >>> from nla_sdk.contract import Contract
    >>> card = render(Contract.load("av"), "results/mine/evaluation.json", about=About("ada/av"))  # doctest: +SKIP
"""

from .card import About, Card, Checkpoint, render, space
from .difference import diff
from .errors import CardError

__all__ = ["About", "Card", "CardError", "Checkpoint", "diff", "render", "space"]
