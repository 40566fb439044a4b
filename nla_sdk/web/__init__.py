"""What whoever talks to a server over HTTP stands on: an address taken apart, a pause that is asked for, a loop."""
