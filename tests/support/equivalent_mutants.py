"""Mutants of the reference decoders that nothing can tell from these, each with its reason.

`reference_mutants.py` counts them apart, and complains if one does not exist, or if a golden
archive tells it.
"""

from typing import NamedTuple


class Equivalent(NamedTuple):
    """Mutants of one line: the changes are written as by `reference_mutants.py --survivors`."""

    module: str
    text: str  # the line, without what is around it
    changes: tuple[str, ...]  # "(1)" behind one that the line has several of: the first of them
    why: str


EQUIVALENT = (
    Equivalent(
        "audio",
        "if model.size != (depth + 7) // 8:",
        ("7 -> 6", "8 -> 9"),
        "depths are multiples of 4, and 24 at most",
    ),
    Equivalent(
        "audio",
        "if self.at + 2 > len(self.words):",
        ("2 -> 1",),
        "what ends within a word is refused at its end, too",
    ),
    Equivalent(
        "audio",
        "if flags > 15 or not 1 <= channels <= 32 or not 1 <= size <= 4:",
        ("1 -> 0 (2)",),
        "a sample of no bytes has no bits, and is refused next",
    ),
    Equivalent(
        "audio",
        "if u >= 2**21:",
        ("21 -> 22",),
        "a weight of 2^20 alone is too large for the sum of all",
    ),
    *(
        Equivalent("audio", line, changes, "each of the 132 distributions is the same with it")
        for line, changes in (
            ("with decimal.localcontext(prec=60):", ("60 -> 61", "60 -> 59")),
            (
                "int(((-(Decimal(2) ** (i - 16))).exp() * 2**30).to_integral_value()) "
                "for i in range(21)",
                ("21 -> 22",),
            ),
            ("if z >= 1 << 21:", ("21 -> 20",)),
            ("return 0", ("0 -> 1", "0 -> -1")),
            ("for i in range(21):", ("21 -> 22",)),
            ("r = min((size << 36) // m, 1 << 22)", ("1 -> 2", "22 -> 23", "22 -> 21")),
            ("e = exp_minus(r * 90852 >> 16)", ("90852 -> 90853",)),
            (
                "share = (e << 30) // ((2**30 + e) ** 2 >> 30)",
                ("30 -> 31 (1)", "30 -> 31 (3)", "30 -> 29 (1)", "30 -> 29 (3)"),
            ),
        )
    ),
    Equivalent(
        "container",
        "if not max(0, len(self.models) - MAX_LIVE_MODELS) <= number < len(self.models):",
        ("0 -> -1",),
        "the number of a model is no less than 0 here",
    ),
    Equivalent(
        "derived",
        "at = 0",
        ("0 -> -1",),
        "offsets of tensors are no less than 0",
    ),
    Equivalent(
        "derived",
        "if at < end and at + size > begin:",
        ("at < end -> at <= end", "at + size > begin -> at + size >= begin"),
        "of a row that begins at the end, or ends at the beginning, nothing is taken",
    ),
    Equivalent(
        "derived",
        "middle = (top + 1) // 2",
        ("1 -> 2",),
        "`top` is odd",
    ),
    Equivalent(
        "derived",
        "return inverse if np.isfinite(inverse) else f(0)",
        ("0 -> 1", "0 -> -1"),
        "what it multiplies is so small then that it is rounded to 0",
    ),
    Equivalent(
        "derived",
        "s, kept = c / b if b else f(0), q",
        ("0 -> 1", "0 -> -1"),
        "b is positive: the largest number is 1e-15 or more, and its code not 0",
    ),
    Equivalent(
        "derived",
        "s = most = f(0)",
        ("0 -> 1", "0 -> -1"),
        "both are set in the first round, whose k is 0",
    ),
    Equivalent(
        "flac",
        "size = next(n for n in range(2, 8) if not number >> (5 * n + 1))",
        ("2 -> 1", "8 -> 9"),
        "numbers are 128 at least here, and below 2^36",
    ),
    Equivalent(
        "flac",
        "return bytes([(0xFF00 >> size & 255) | number >> 6 * (size - 1), *rest])",
        ("255 -> 254",),
        "the lowest bit is never set, since a size is below 8",
    ),
    Equivalent(
        "flac",
        "return 192 if code == 1 else 576 << (code - 2) if code < 6 else 256 << (code - 8)",
        ("code < 6 -> code <= 6", "6 -> 7"),
        "codes 6 and 7 have their sizes behind the header, and do not come here",
    ),
    Equivalent(
        "flac",
        "if k >= 32:",
        ("32 -> 31 (1)", "32 -> 31 (2)"),
        "a parameter of 31 was refused before, in both methods",
    ),
    Equivalent(
        "flac",
        "weights: tuple[int, ...] = FIXED[kind - 8] if kind < 32 else ()",
        ("32 -> 31",),
        "kinds 13 to 31 were refused before",
    ),
    Equivalent(
        "flac",
        "order = len(weights) if kind < 32 else kind - 31",
        ("32 -> 31",),
        "kinds 13 to 31 were refused before",
    ),
    Equivalent(
        "flac",
        "if kind >= 32:",
        ("32 -> 31",),
        "kinds 13 to 31 were refused before",
    ),
    Equivalent(
        "pages",
        "same = 1",
        ("1 -> 0",),
        "a value is equal to itself",
    ),
    Equivalent(
        "pages",
        "if not cut or not 0 <= cut[0] <= min(MOST_BEHIND, len(cut) - 1):",
        ("0 -> -1 (1)",),
        "what is then taken for a head is below 2, and refused",
    ),
    Equivalent(
        "pages",
        'word = int.from_bytes(data[at : at + 4], "little") * 0x1E35A7BD % 2**32',
        ("4 -> 5",),
        "what a fifth byte adds is a multiple of 2^32",
    ),
    Equivalent(
        "pages",
        "length = 4",
        ("4 -> 3",),
        "four bytes agree",
    ),
    *(
        Equivalent("pages", line, changes, "a way is one byte but for gzip, which came before")
        for line, changes in (
            ("if way[0] == 64:", ("0 -> -1",)),
            ("return snappy(data, way[0]) if way[0] else data", ("0 -> -1 (1)", "0 -> -1 (2)")),
            ("if newer and way[0] == 128:", ("0 -> -1",)),
            (
                "elif not (newer and way[0] == 64) and way[0] and not 8 <= way[0] & ~32 <= 15:",
                ("0 -> -1 (1)", "0 -> -1 (2)", "0 -> -1 (3)"),
            ),
        )
    ),
    Equivalent(
        "pages",
        "elif not (newer and way[0] == 64) and way[0] and not 8 <= way[0] & ~32 <= 15:",
        ("32 -> 33",),
        "both bounds are the same for a number and the even one below it",
    ),
    Equivalent(
        "pages",
        "truths = [value[0] for value in known_values]",
        ("0 -> -1",),
        "bits are one byte each",
    ),
    Equivalent(
        "pages",
        "word = sum(value[0] << i for i, value in enumerate(values))",
        ("0 -> -1",),
        "bits are one byte each",
    ),
    Equivalent(
        "pages",
        "if form > 63 or kind > (2, 3, 7)[model.form] or (not kind and (form or values)):",
        ("63 -> 64", "7 -> 8"),
        "64 is kind 0, to which nothing may be added; kinds are below 8",
    ),
    Equivalent(
        "pages",
        "blocks = (0, 0)",
        ("0 -> 1 (1)", "0 -> -1 (1)", "0 -> 1 (2)", "0 -> -1 (2)"),
        "kinds without blocks do not read them",
    ),
    Equivalent(
        "pages",
        "size, parts = blocks = inner.number(2**16), inner.number(2**16)",
        ("2 -> 3 (2)", "16 -> 17 (2)", "16 -> 15 (2)"),
        "parts are an eighth of the size at most",
    ),
    Equivalent(
        "pages",
        "possible = {SPLIT: width > 0, DELTAS: width in (4, 8) and page.bits >= 8 * width,",
        ("8 -> 7 (2)",),
        "bits are 32 or 64",
    ),
    *(
        Equivalent("lz4", line, changes, why)
        for line, changes, why in (
            (
                'return int.from_bytes(data[at : at + 4], "little") * 2654435761 % 2**32 >> 19',
                ("4 -> 5",),
                "what a fifth byte adds is a multiple of 2^32",
            ),
            (
                'return (int.from_bytes(data[at : at + 5], "little") << 24) * 889523592379 '
                "% 2**64 >> 52",
                ("5 -> 6",),
                "what a sixth byte adds is a multiple of 2^64",
            ),
            ("while size >= 13:", ("13 -> 12",), "of 12 bytes the first place is beyond the limit"),
            ("length = 4", ("4 -> 3",), "four bytes agree"),
        )
    ),
    Equivalent(
        "blocks",
        "before = [field.size if field.order < ORDER_JOINED else 0 for field in fields]",
        ("0 -> 1", "0 -> -1"),
        "nothing but 2 is looked for",
    ),
    Equivalent(
        "reading",
        "return self.take(1)[0]",
        ("0 -> -1",),
        "it is one byte",
    ),
    Equivalent(
        "huffman",
        "if first >= last:",
        ("first >= last -> first > last",),
        "one symbol alone is refused for that, too",
    ),
    Equivalent(
        "huffman",
        "if len(lengths) < 2:",
        ("2 -> 1",),
        "one code alone is half of all at most, which is refused as well",
    ),
    Equivalent(
        "huffman",
        "code, previous = 0, 0",
        ("0 -> 1 (2)", "0 -> -1 (2)"),
        "no shift changes a code of 0",
    ),
    Equivalent(
        "huffman",
        "table = [(0, 0)] * (1 << MAX_CODE_LENGTH)",
        ("0 -> 1 (1)", "0 -> -1 (1)", "0 -> 1 (2)", "0 -> -1 (2)", "1 -> 2"),
        "codes are complete: all is set, and what is more is not looked up",
    ),
    Equivalent(
        "huffman",
        "while available < MAX_CODE_LENGTH and position < len(data):",
        ("available < MAX_CODE_LENGTH -> available <= MAX_CODE_LENGTH",),
        "a bit more that is taken early is not looked at",
    ),
    Equivalent(
        "byte_cm",
        "twice = min(pair_of_counts) > 0 and sum(pair_of_counts) <= 17",
        (
            "min(pair_of_counts) > 0 -> min(pair_of_counts) >= 0",
            "0 -> -1",
            "sum(pair_of_counts) <= 17 -> sum(pair_of_counts) < 17",
            "17 -> 18",
            "17 -> 16",
        ),
        "of such pairs one of both states is never reached, and the order of the others stays",
    ),
    Equivalent(
        "byte_cm",
        "more, less = (more * (less - 1) + less // 2) // less, less - 1",
        ("2 -> 3",),
        "gives the same states after all 219 that are reached: all pairs of states were followed",
    ),
    Equivalent(
        "byte_cm",
        "s, o = (more, less) if s >= o else (less, more)",
        ("s >= o -> s > o",),
        "no two equal counts that are reached make a pair that does not exist",
    ),
    Equivalent(
        "byte_cm",
        "row = [SQUASH[(4096 * i + 15) // 31] for i in range(31)] + [SQUASH[4095]]",
        ("4095 -> 4094",),
        "the last two entries of the table are equal",
    ),
    Equivalent(
        "float_cm",
        "u = clip(((x - self.mean) * self.precision) >> 15, -4096, 4095) + 4096",
        ("4096 -> 4095 (1)", "4095 -> 4094"),
        "the table is flat at both ends",
    ),
    Equivalent(
        "float_cm",
        "x = s * INVERSE[self.octaves & 7]",
        ("7 -> 6",),
        "octaves are even",
    ),
    Equivalent(
        "table",
        "CELLS = [SQUASH[(4096 * i + 15) // 31] for i in range(31)] + [SQUASH[4095]]",
        ("4095 -> 4094",),
        "the last two entries of the table are equal",
    ),
    Equivalent(
        "table",
        'values.append(int.from_bytes(data.ljust(8, b"\\0"), "little", signed=True))',
        ("8 -> 9",),
        "negative numbers are refused wherever there are any, and so are those beyond 2^63",
    ),
    Equivalent(
        "table",
        "widths = [at.number(2**25) for _ in range(columns)] if form & 4 else [0] * columns",
        ("0 -> -1",),
        "styles that a width is needed for are refused without one, and at a negative one",
    ),
    Equivalent(
        "table",
        "widths[column] = 1 if arrays[-1] == 1 else at.number(2**25) if not arrays[-1] else 0",
        ("0 -> -1",),
        "styles that a width is needed for are refused without one, and at a negative one",
    ),
    Equivalent(
        "audio_cascade",
        "return x << left if left >= 0 else x >> -left",
        ("left >= 0 -> left > 0", "0 -> 1"),
        "a shift by 0 to either side is none",
    ),
    Equivalent(
        "audio_cascade",
        "return clip(s >> (e - 30), -m, m) if e >= 30 else clip(clip(s, -m, m) << (30 - e), -m, m)",
        ("e >= 30 -> e > 30", "30 -> 31 (1)"),
        "both ways give the same for 30",
    ),
    Equivalent(
        "audio_cascade",
        "old = self.kept[0] if self.kept else [0] * 33",
        ("33 -> 34",),
        "a row is as long as what is added, 33 at most",
    ),
    Equivalent(
        "audio_cascade",
        "return [x[i - 1 - j] if i - 1 - j >= 0 else 0 for j in range(33)]",
        ("33 -> 34",),
        "samples beyond are not asked for",
    ),
    Equivalent(
        "audio_cascade",
        "self.kept = [row, *self.kept[:31]]",
        ("31 -> 32",),
        "rows beyond are not asked for",
    ),
    Equivalent(
        "audio_cascade",
        "d: int = 0",
        ("0 -> 1", "0 -> -1"),
        "all weights are 0 until it is set",
    ),
    Equivalent(
        "audio_cascade",
        "max([0, *(s.at(j, 0) for j in range(count))]) + ridge",
        ("0 -> 1 (1)", "0 -> -1 (1)"),
        "sums of squares are not negative, and a power of two and one more have as many bits",
    ),
    Equivalent(
        "audio_cascade",
        "z = before(x[partner], i - b + 1) if channels > 1 else [0]",
        ("0 -> 1", "0 -> -1"),
        "without a partner there are no weights for it",
    ),
    Equivalent(
        "audio_cascade",
        "step = clip(shifted(step, min(41 - b, 28)), 1 - 2**31, 2**31 - 1)",
        ("1 -> 2 (1)", "1 -> 0 (1)", "1 -> 2 (2)", "1 -> 0 (2)"),
        "values are below 2^24, and products are rounded to 2^30",
    ),
    Equivalent(
        "audio_cascade",
        "s = uz.at(i, k - i) if k >= i else zu.at(k, i - k)",
        ("k >= i -> k > i",),
        "without a lag both are sums of the same products",
    ),
    Equivalent(
        "audio_cascade",
        "SHIFTS = [0] * 6 + [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7] + list(range(8, 28, 2))",
        ("28 -> 27",),
        "the last even number is 26 both ways",
    ),
    Equivalent(
        "audio_cascade",
        "m = [[0] * n for _ in range(n)]",
        ("0 -> 1", "0 -> -1"),
        "the upper half is set, the other is not read",
    ),
    Equivalent(
        "audio_cascade",
        "factor = [[0] * n for _ in range(n)]",
        ("0 -> 1", "0 -> -1"),
        "what is read of it was set before",
    ),
    Equivalent(
        "audio_cascade",
        "for i in range(j + 1, n):",
        ("1 -> 0",),
        "the diagonal is not read",
    ),
    Equivalent(
        "audio_cascade",
        "if node < 2:",
        ("2 -> 1",),
        "there is no node 1",
    ),
    Equivalent(
        "audio_cascade",
        "share = e1 * (2**30 + e0) // max(1, (e0 * (2**30 + e1)) >> 22)",
        ("1 -> 2",),
        "what is divided by is 256 at least, or else e0 is 0, and e1 with it",
    ),
    Equivalent(
        "audio_cascade",
        "negative = 1 - counters.decide((32 * m + "
        "(part if unit < 3 else 0), 32 * fast, 32 * m), 0)",
        (
            *("32 -> 33 (1)", "32 -> 33 (2)", "32 -> 33 (3)", "32 -> 31 (2)", "32 -> 31 (3)"),
            *("0 -> 1 (1)", "0 -> 1 (2)", "0 -> -1 (2)"),
        ),
        "different contexts stay different, and those of node 0 have nothing else",
    ),
    Equivalent(
        "image",
        "if method > 3 or flags > 15 or flags & 3 == 2 or not 1 <= channels <= 64 or not width:",
        ("flags > 15 -> flags >= 15", "15 -> 14"),
        "flags of 15 are refused: values go with one byte a sample",
    ),
    Equivalent(
        "image_residual",
        "self.means = [[self.first_mean(kind) for kind in range(48)] for _ in channels]",
        ("48 -> 49",),
        "kinds are below 48",
    ),
    Equivalent(
        "image_residual",
        "self.below, self.above, self.share = 0, 2**19, 0",
        ("0 -> 1 (2)", "0 -> -1 (2)"),
        "a share is set before it is read",
    ),
    Equivalent(
        "image_residual",
        "return clip(e >> (4 + self.q), -7, 7) + 8",
        ("8 -> 9", "8 -> 7"),
        "keys stay different",
    ),
    Equivalent(
        "image_residual",
        "sets = [self.rows[c, 0, kind, node], self.rows[c, 1, texture, node]]",
        ("0 -> -1", "1 -> 2"),
        "keys stay different",
    ),
    Equivalent(
        "image_residual",
        "return (c, 0, texture, min(15, kind >> 1)), (c, 1, first, second, min(3, kind >> 3))",
        ("0 -> 1", "0 -> -1", "1 -> 2 (2)", "1 -> 0 (2)"),
        "keys have other lengths",
    ),
    Equivalent(
        "image_residual",
        "(c, 3, kind, mean & 15),",
        ("3 -> 2",),
        "keys stay different",
    ),
    Equivalent(
        "image_residual",
        "(c, 4, class_of(z >> (3 + r)), between),",
        ("4 -> 5",),
        "keys stay different",
    ),
    Equivalent(
        "image_residual",
        "node = 27 + min(1, steps - 2) + 2 * side",
        ("27 -> 28",),
        "these nodes are the last ones: they stay apart from the others",
    ),
    *(
        Equivalent(
            module,
            "level = k if k <= 2 else 3 if k <= 4 else 4 if k <= 8 else 5",
            ("2 -> 3",),
            "3 counts as 3 both ways",
        )
        for module in ("tokens", "tokens_mixed", "token_ranks")
    ),
    Equivalent(
        "tokens_mixed",
        "p = clip(SQUASH[clip(total >> 16, -2047, 2047) + 2048], 16, 65520)",
        ("16 -> 17 (2)", "16 -> 15 (2)", "65520 -> 65521", "65520 -> 65519"),
        "the table has numbers from 22 to 65514",
    ),
    Equivalent(
        "tokens_mixed",
        "counts[j] = min(counts[j] + 2, 60)",
        ("60 -> 61", "60 -> 59"),
        "behind the first place counts stay far below 60: while they grow, the first one falls",
    ),
    Equivalent(
        "tokens_mixed",
        "step = 65536 // (self.u[place] + 2)",
        ("65536 -> 65537",),
        "numbers from 2 to 17 do not divide 65537",
    ),
    Equivalent(
        "tokens_mixed",
        "self.p[place] += ((4095 * y - self.p[place]) * step + 32768) >> 16",
        ("32768 -> 32769",),
        "no difference and step add up to one less than a multiple of 65536: all were tried",
    ),
    Equivalent(
        "tokens_mixed",
        "self.check, self.p, self.u = check, [2048] * 16, [0] * 16",
        ("16 -> 17 (1)", "16 -> 17 (2)"),
        "places are below 16",
    ),
    Equivalent(
        "tokens_mixed",
        "if len(pair) < 2:",
        ("2 -> 1",),
        "a stream that ends within a pair is refused at its end, too",
    ),
    *(
        Equivalent(
            "token_ranks",
            f"({', '.join([str(mass)] * 8)}),",
            tuple(f"{mass} -> {mass + d} ({k})" for d in (1, -1) for k in columns),
            "such a node counts to 3 at most",
        )
        for mass, columns in (
            (10, (*range(4, 9), *range(12, 17))),
            (86, range(4, 9)),
            (96, range(4, 9)),
        )
    ),
    *(
        Equivalent("token_ranks", f"({b},) * 8,", ("8 -> 9",), "columns are below 8")
        for b in (14, 21)
    ),
    Equivalent(
        "token_ranks",
        "keys: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)] * 4)",
        ("4 -> 5",),
        "there are three slots and a match",
    ),
    Equivalent(
        "token_ranks",
        "for row, (x, t) in enumerate(keys if fast is None else (*keys, (0, 0))):",
        ("0 -> 1 (1)", "0 -> -1 (1)", "0 -> 1 (2)", "0 -> -1 (2)"),
        "of a node outside the table they are not read",
    ),
    Equivalent(
        "token_ranks",
        "check: int = 0",
        ("0 -> -1 (1)", "0 -> 1 (2)", "0 -> -1 (2)"),
        "checks of nodes are positive, and a slot that is empty is one under any check",
    ),
    Equivalent(
        "token_ranks",
        "at = [j for j in range(4) if p[j] and p[j] % 2**20 == token]",
        ("20 -> 21",),
        "marks are 0 by then",
    ),
    Equivalent(
        "token_ranks",
        "if p[j] > p[j - 1]:",
        ("p[j] > p[j - 1] -> p[j] >= p[j - 1]",),
        "equal places may change",
    ),
    Equivalent(
        "token_ranks",
        "source: tuple[int, int] = (0, 0)",
        ("0 -> 1 (1)", "0 -> -1 (1)", "0 -> 1 (2)", "0 -> -1 (2)"),
        "it is set before it is read",
    ),
)
