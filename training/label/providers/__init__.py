"""Where completions come from: APIs, command-line clients, and what runs on this machine."""
