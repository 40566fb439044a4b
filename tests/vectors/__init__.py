"""Vectors out of other tools' files."""
