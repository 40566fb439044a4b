"""What a base's activations look like, state by state, and whether a batch looks like those of the pair's layer."""
