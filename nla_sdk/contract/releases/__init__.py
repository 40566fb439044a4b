"""What is known of published releases, and a local copy of one recognised by its facts."""
