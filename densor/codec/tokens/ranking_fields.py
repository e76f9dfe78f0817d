"""What the numbers of a stream's state are, for the ranking kernel and what makes them ready."""

A, B, C = 0, 1, 2  # tokens before, the nearest first
SOURCE, LENGTH, EXPECTED = 3, 4, 5  # the match
HISTORY = 6  # of the last two ranks
SLOT3, CHECK3, SLOT2, CHECK2, SLOT1, CHECK1, MATCH, MATCH_CHECK = 7, 8, 9, 10, 11, 12, 13, 14
COMMON, OWN, OWN_CHECK, BESIDE, BESIDE_CHECK = 15, 16, 17, 18, 19  # nodes of the next symbol
LEFT = 20  # places of the slots that have candidates
TOKEN, SO_FAR = 21, 22  # the token; its digits that are known
THIRD, THIRD_CHECK, FOURTH, FOURTH_CHECK = 23, 24, 25, 26  # further nodes of the next symbol
FIELDS = 32
