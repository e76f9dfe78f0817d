"""What the kernel and those who call it know of zlib: strategies, and the size of work space."""

DEFAULT, FILTERED, HUFFMAN, RLE, FIXED = range(5)  # strategies
HEAP = 2 * 288 + 1
