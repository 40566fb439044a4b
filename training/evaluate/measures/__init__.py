"""The figures of an evaluation, each computed from its rows."""
