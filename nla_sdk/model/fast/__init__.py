"""The same numbers in less time on a CPU: a model's products and blocks, called as this machine does them fastest."""
