"""Byte planes of numbers, by Huffman codes or rANS."""
