"""Files and tables: atomic writes, hashes, sidecars, vector columns, chunks. Knows nothing of models."""
