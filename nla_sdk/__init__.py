"""Natural language autoencoders: explain, reconstruct and round-trip a model's activations.

    >>> from nla_sdk import NLAPair
    >>> pair = NLAPair.from_pretrained("demo")
    >>> trip = pair.round_trip("The cat sat on the mat.")
    >>> print(trip.explanation, trip.fve)

Importing this package is light: torch is imported when a pair is first asked for.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "NLAPair": "pair",
    "RoundTrip": "pair",
    "Score": "pair",
    "ChosenExplanation": "pair",
    "Activations": "model.extraction",
    "Contract": "contract",
    "NLAError": "errors",
    "NLAWarning": "errors",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
