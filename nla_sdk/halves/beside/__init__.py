"""What lies beside a half and was made of it: known again by the SHA-256 of the half's files."""
