"""Labels made by the actors of a Ray cluster, one account of what is paid for them."""
