"""One file for each family of tools: how its files are told, where the directions lie in them, what they do not say."""
