"""From text to training tables: extract, split, build."""
