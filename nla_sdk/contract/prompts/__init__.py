"""The exact prompts of a contract as text and as token ids, and the contract held against a tokenizer."""
