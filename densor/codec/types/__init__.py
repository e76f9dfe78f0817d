"""Element types found in bytes of which nothing is known."""
