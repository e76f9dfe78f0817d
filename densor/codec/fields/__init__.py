"""Blocks of several fields, such as those of quantised weights, field by field."""
