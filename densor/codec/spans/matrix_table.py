"""What the encoder of matrices is given beside the elements, and what it notes of them."""

# Columns of `parts`, the matrices of a batch: rows and columns; its first element, and places of
# its scales among all of the batch; then flags and centres as `Part` has them
ROWS, COLUMNS, ELEMENT, ROW_AT, COLUMN_AT = range(5)
FLAGS, ROW_CENTRE, COLUMN_CENTRE = range(5, 8)
PART = 8
# Columns of `chunks`: the first element, how many; the first matrix, how many; the base exponent;
# a bit for each context that occurs; the number of its first run, where low halves are coded
BEGIN, COUNT, FIRST_PART, PARTS, BASE, OCCUR, FIRST_RUN = range(7)
CHUNK = 7
# What becomes of a batch, by a look at it
REFUSED, LOW_RAW, LOW_CODED = range(3)
FORM_BF16, FORM_FP16, FORM_FP8, FORM_FP32 = range(4)
CONTEXTS = 10  # of elements, then of rows and of columns
PHASE = 3
TILE = 1 << 12  # elements that are looked at together
GROUPS = 128  # of rows by their scales, in which exponents are counted as planes would have them
STEPS_OF_GROUP = 2
EXPONENTS = (1 << PHASE) << 8  # where tallies of exponents are, behind those of symbols
TALLIES = EXPONENTS + 256
EDGE = 256
