"""How a model is run: its logits, its blocks up to one and no further."""
