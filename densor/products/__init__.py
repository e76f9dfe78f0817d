"""Products of matrices that stay packed with vectors, on the CPU.

A matrix of BF16 or FP16 is held in a layout of fixed width that takes .70 to .76 (BF16) or .89
(FP16) of its memory, and is multiplied from there: with few vectors, reading weights is what takes
time. Weights are exact; see `kernels.py` for the order of sums. The layout is made in memory and is
never written to a file.
"""
