"""A Hub over real HTTP on loopback, for the official client (`server.py`), and the fixture that uses it."""
