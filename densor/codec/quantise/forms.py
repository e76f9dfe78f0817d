"""The types that weights can be quantised to again, and from; by their names in GGUF."""

Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 = 2, 3, 6, 7, 8  # as GGUF numbers them
BLOCK = 32  # weights
FORMS = {"Q4_0": Q4_0, "Q4_1": Q4_1, "Q5_0": Q5_0, "Q5_1": Q5_1, "Q8_0": Q8_0}
BLOCK_BYTES = {"Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q8_0": 34}
FLOATS = {"F32": 4, "F16": 2, "BF16": 2}  # bytes of a weight; also what is quantised
