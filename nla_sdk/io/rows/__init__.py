"""Rows in and out of files: readers by kind, what a command was given, formats."""
