"""The site: its pages, and the scripts of docs/ that write parts of them."""
