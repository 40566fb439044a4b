"""What a pair is given made ready for its halves: texts and vectors, questions, layers; and how near words came."""
