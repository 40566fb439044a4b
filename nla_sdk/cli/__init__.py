"""The commands of `nla`, and what every command line of this project shares: options, error boundary, terminal."""
