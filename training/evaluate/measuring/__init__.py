"""The model's part of an evaluation, in chunks that this process or the actors of a cluster make."""
