"""The evaluation file: what it holds, how it is read, and what it must agree with itself in."""
