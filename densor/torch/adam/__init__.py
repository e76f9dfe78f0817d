"""Adam's state, packed; a step of Adam, bit for bit."""
