"""Makes checkpoints: text → activations → explanations → adapters."""
