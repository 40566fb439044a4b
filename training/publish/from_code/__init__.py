"""What `push_to_hub` of the SDK asks for: published as the command publishes, but for its questions."""
