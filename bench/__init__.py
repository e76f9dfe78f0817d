"""Benchmark of Densor against its peers. See README.md beside this file."""
