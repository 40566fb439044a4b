"""Renders cards: a contract and an evaluation file → Markdown and figures. Knows nothing of torch."""
