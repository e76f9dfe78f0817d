"""Damaged archives: what is left of them, getting it out, repairing."""
