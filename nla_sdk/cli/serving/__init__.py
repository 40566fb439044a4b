"""`nla serve`: a pair over HTTP until somebody stops it."""
