"""Long work on tables: what is done to their rows, and how it is run so that nothing done is lost."""
