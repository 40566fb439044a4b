"""What the words of explanations are worth: claims with their receipts, how often they hold, and their probability."""
