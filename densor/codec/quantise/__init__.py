"""Weights quantised as llama.cpp does it, so that what was made so need not be stored."""
