"""Receipts of claims."""
