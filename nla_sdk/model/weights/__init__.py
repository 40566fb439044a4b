"""Weights into memory: the base loaded and placed, adapters with every tensor accounted for, heads and means."""
