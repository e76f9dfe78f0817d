"""Floating-point numbers under contexts of scale: what their row and column lead to expect."""
