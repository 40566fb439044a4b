"""The three APIs, each on the same pair: the inference server's, the public site's and our own."""
