"""What a card says beside its evaluation: how a half was made, what tables hold, which licence applies."""
