"""A step of Adam, bit for bit: what m and v become, and the gradient that they tell."""
