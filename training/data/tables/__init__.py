"""Training tables: their columns, whose rows they take, and what does not fit."""
