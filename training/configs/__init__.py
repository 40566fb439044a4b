"""One YAML file configures every stage; here are its sections, and the files for the pairs we make."""
