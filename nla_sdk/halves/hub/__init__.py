"""What a reference names, what is there, its download, and what errors of the Hub mean."""
