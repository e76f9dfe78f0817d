"""Learning a circuit from images; floating-point numbers are used here alone."""
