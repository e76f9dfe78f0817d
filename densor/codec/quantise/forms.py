"""The types that weights can be quantised to again, and from; by their names in GGUF."""

Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 = 2, 3, 6, 7, 8  # as GGUF numbers them
Q2_K, Q3_K, Q4_K, Q5_K, Q6_K = 10, 11, 12, 13, 14
BLOCK = 32  # weights
SUPER_BLOCK = 256
FORMS = {
    "Q4_0": Q4_0, "Q4_1": Q4_1, "Q5_0": Q5_0, "Q5_1": Q5_1, "Q8_0": Q8_0,
    "Q2_K": Q2_K, "Q3_K": Q3_K, "Q4_K": Q4_K, "Q5_K": Q5_K, "Q6_K": Q6_K,
}  # fmt: skip
BLOCK_BYTES = {
    "Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q8_0": 34,
    "Q2_K": 84, "Q3_K": 110, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210,
}  # fmt: skip
BLOCK_WORK, BLOCK_CODES = 544, 64  # sizes of the work space of what makes such blocks
SUPER_WORK, SUPER_CODES = 2432, 1216
FLOATS = {"F32": 4, "F16": 2, "BF16": 2}  # bytes of a weight; also what is quantised


def block_weights(form: str) -> int:
    """Weights of a block of a quantised type."""
    return SUPER_BLOCK if FORMS[form] >= Q2_K else BLOCK
