"""Chunks made by the actors of a Ray cluster; only here is Ray imported, when it is asked for."""
