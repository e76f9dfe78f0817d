"""Length-limited canonical Huffman coding of bytes, several symbols per look-up. See notes.md."""
