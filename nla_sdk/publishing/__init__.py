"""What is pushed to the Hub from Python: the publisher, found when it is asked for, and what comes back."""
