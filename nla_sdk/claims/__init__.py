"""What an explanation claims: cut out by rule, taken out again, and how far each claim is to be believed."""
