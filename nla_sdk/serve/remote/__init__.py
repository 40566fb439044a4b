"""What a client sends to a served pair, and what comes back."""
