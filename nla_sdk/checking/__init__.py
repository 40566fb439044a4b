"""Receipts for claims, from the models that a pair has at hand."""
