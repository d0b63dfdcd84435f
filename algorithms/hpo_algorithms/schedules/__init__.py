"""How long to try it: one schedule a file."""
