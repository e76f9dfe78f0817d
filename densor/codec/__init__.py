"""Codecs: which planes a tensor splits into, and which model describes each."""
