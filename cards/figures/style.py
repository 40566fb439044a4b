"""How all figures look: a card's width, the colours of Okabe and Ito, which people with colour-blindness tell apart."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE, DPI = (8.0, 4.2), 110  # at a card's width, 700 px, type is 10 px and more
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#000000",
)
GREY = "#8a8a8a"
# Of families, by marker as well as by colour; none is RED, BLACK or GREY, which reference lines have.
FAMILIES = tuple(zip((BLUE, ORANGE, GREEN, PURPLE, SKY, "#882255", "#44AA99", "#999933"), "os^Dv<P>", strict=True))


def minus(label: str) -> str:
    """The label with real minus signs before its numbers."""
    return re.sub(r"-(?=\d)", "−", label)


def bare(axes: Axes) -> None:
    """No frame above and on the right."""
    axes.spines[["top", "right"]].set_visible(False)
