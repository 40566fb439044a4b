"""What the fitting scripts share: the base with its adapter, rows, losses, the loop, checkpoints."""
