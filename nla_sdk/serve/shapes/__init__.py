"""What the bodies of requests and answers look like."""
