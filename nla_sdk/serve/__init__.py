"""A pair over HTTP: the field's two REST dialects and our own, and the page that speaks it."""
