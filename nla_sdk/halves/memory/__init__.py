"""Models of halves in memory: a base shared by all pairs that sit on it, and what activations are read from."""
