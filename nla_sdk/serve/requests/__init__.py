"""What a request has a pair do: turns and threads, rows of it, frames as they come."""
