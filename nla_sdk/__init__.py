"""Natural language autoencoders: explain, reconstruct and round-trip a model's activations.

    >>> from nla_sdk import NLAPair
    >>> pair = NLAPair.from_pretrained("demo")
    >>> trip = pair.round_trip("The cat sat on the mat.")
    >>> print(trip.explanation, trip.status, trip.gain)

Importing this package is light: torch is imported when a pair is first asked for.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .calls.comparing import Comparison
    from .calls.steered import Completion, Steered
    from .claims.receipts import Check
    from .client import Client
    from .contract import Contract
    from .errors import NLAError, NLAWarning
    from .model.statistics.check import ActivationReport
    from .model.statistics.means import ActivationMean
    from .pair import NLAPair
    from .results import Activations, Answer, Explanation, Results, RoundTrip, Score
    from .vectors import Vectors

__version__ = "0.1.0"
__all__ = [
    "ActivationMean",
    "ActivationReport",
    "Activations",
    "Answer",
    "Check",
    "Client",
    "Comparison",
    "Completion",
    "Contract",
    "Explanation",
    "NLAError",
    "NLAPair",
    "NLAWarning",
    "Results",
    "RoundTrip",
    "Score",
    "Steered",
    "Vectors",
    "__version__",
]

_HOMES = {
    "NLAPair": "pair",
    **dict.fromkeys(("Activations", "Answer", "Explanation", "Results", "RoundTrip", "Score"), "results"),
    "ActivationMean": "model.statistics.means",
    "ActivationReport": "model.statistics.check",
    "Check": "claims.receipts",
    "Client": "client",
    "Comparison": "calls.comparing",
    "Contract": "contract",
    **dict.fromkeys(("Completion", "Steered"), "calls.steered"),
    "Vectors": "vectors",
    **dict.fromkeys(("NLAError", "NLAWarning"), "errors"),
}

if not TYPE_CHECKING:  # a checker would take every name that this package lacks for Any

    def __getattr__(name: str) -> object:
        if name in _HOMES:
            home = f"{__name__}.{_HOMES[name]}"
            if home not in sys.modules:
                from .imports import uncollected

                with uncollected():
                    import_module(home)
            return getattr(import_module(home), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
