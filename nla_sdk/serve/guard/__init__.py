"""Who may ask, how much, and in what form: before a pair has anything to do."""
