"""Figures of an evaluation: PNG for cards, SVG for papers; matplotlib only, nothing is measured here."""
