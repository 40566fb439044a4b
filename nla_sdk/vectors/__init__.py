"""Vectors out of other tools' files: dictionaries, steering vectors, captures; what they do not say is asked."""

from .kinds import Vectors
from .loading import load

__all__ = ["Vectors", "load"]
