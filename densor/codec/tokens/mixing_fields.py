"""What the numbers of a stream's state are, for the mixing kernel and what makes them ready."""

# The coder, where the stream ends, and the range of tokens that are still to come
VALUE, WIDTH, AT, LIMIT, NEXT, END = 0, 1, 2, 3, 4, 5
A, B, C, D = 6, 7, 8, 9  # tokens before, the nearest first
SOURCE, LENGTH, ORIGIN, EXPECTED = 10, 11, 12, 13  # the match; ORIGIN: the stream it lies in
PHASE, SO_FAR, HISTORY = 14, 15, 16  # 0, or one more than the digits that are known; these; ends
SLOT2, SLOT3, CHECKS, MATCH, MATCH_CHECK = 17, 18, 19, 20, 21
OWN, OWN_CHECK, BESIDE, BESIDE_CHECK = 22, 23, 24, 25  # nodes of a digit
FIELDS = 26
