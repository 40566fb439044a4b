"""What the methods of a pair do in steps, from what they are given to what comes back."""
