"""One module per command, each with `parser()` and `run(args)`; imported when it is called.

Modules import nothing heavy at the top, so that help and usage errors come at once.
"""
