"""The models of a pair in memory: the shared base, its adapters, injection, the AV, the AR and extraction."""
