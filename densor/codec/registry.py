"""Numbers that stand in archives. Frozen: a number is never given another meaning."""

FRAME_SIZE = 28  # bytes in front of the payload of every frame

MODEL_RAW = 0  # model numbers of chunks without a MODEL frame
MODEL_ZSTD = 1
FIRST_MODEL = 16  # the number of the first MODEL frame
MODEL_WINDOW = 256  # how many MODEL frames back a chunk may reach
MODEL_BYTES = 1 << 16  # of a MODEL frame, at most

CODEC_PLANES_HUFFMAN = 2  # the first byte of a MODEL frame
CODEC_SCALE_CONTEXT = 3  # floats under scale contexts, rANS
CODEC_FLOAT_CM = 4  # floats by context mixing
CODEC_BLOCKS = 5  # blocks of several fields, each with a model of its own
CODEC_SPARSE = 6  # a bitmap of zeros, and the others with a model of their own
CODEC_DELTA = 7  # changes against a base
CODEC_PLANES_RANS = 8  # byte planes, rANS under row classes
CODEC_BYTE_CM = 9  # bytes by context mixing
CODEC_LANGUAGE_MODEL = 10  # text by a language model
CODEC_IMAGE = 11  # rows of images
CODEC_AUDIO = 12  # samples of sound
CODEC_TABLE = 13  # tables as text
CODEC_TOKENS = 14  # tokens of texts and of sound codecs
CODEC_DEFLATE = 15  # streams of zlib, made again of what they hold
CODEC_CIRCUIT = 16  # images under a learned circuit
CODEC_PAGES = 17  # pages of columns, made again of their values
CODEC_TOKEN_RANKS = 18  # tokens of texts, by ranks of candidates
CODEC_NOTATION = 19  # elements in another form than their bytes
CODEC_TOKEN_RANKS_MORE = 20  # tokens of texts, by ranks, of which more contexts tell

PLANE_RAW = 0  # how a plane of a planar chunk is stored
PLANE_CONSTANT = 1
PLANE_ZSTD = 2
PLANE_CLASSES = 3  # Huffman
PLANE_RANS = 4

CLASS_RAW = 0  # how the runs of one class are stored
CLASS_CONSTANT = 1
CLASS_HUFFMAN = 2

PART_RAW = 0  # how a part of a chunk that is coded apart is stored
PART_ZSTD = 1
PART_MODEL = 2

ORDER_BLOCKS = 0  # in which order the items of a field are coded
ORDER_COLUMNS = 1
ORDER_FIELD = 2
ORDER_RATIO = 3
ORDER_JOINED = 5  # packed elements as symbols, with their high bits from another field
ORDER_ELSEWHERE = 6  # the high bits, which are in the symbols of that field

KEY_NONE = 0  # in which order the items of a joined field are
KEY_FIELD = 1
KEY_RATIO = 2
KEY_MAGNITUDE = 3
KEY_RATIO_6 = 4
KEY_RATIO_4 = 5

LAYOUT_BYTE = 1
LAYOUT_BF16 = 2
LAYOUT_WORD16 = 3
LAYOUT_FP32 = 4
LAYOUT_WORD32 = 5
LAYOUT_FP64 = 6
LAYOUT_WORD64 = 7

HASH_XXH3_128 = 1  # hash of an entry's original bytes
HASH_SHA256 = 2
