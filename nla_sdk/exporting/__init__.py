"""A pair written in another layout, so that code which knows only that layout runs it as it ran here."""
