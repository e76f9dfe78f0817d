"""The state of the arithmetic coder, as its kernels and those who call them know it."""

STATE = 5  # values of a state
AT = 2  # where the position stands in it
