"""A GGUF file of Gemma 3 made a folder that transformers loads: its fields, its tokenizer, its weights."""
