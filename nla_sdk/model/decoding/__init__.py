"""What writing takes beside the model: the prompt's prefix in a cache, the next token drawn."""
