"""Length-limited canonical Huffman coding of bytes, several symbols per look-up. See docs/format/notes.md."""
