"""Labelers: from a text and what the base model expects next, to an explanation of the activation at its end."""
