"""The command line: zstd's habits for single files, words for archives of many."""
