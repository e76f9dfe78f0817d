"""Byte planes under row classes, coded by rANS: below whole bits. See spec.md."""
