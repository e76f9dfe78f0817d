"""Elements that are mostly zero: which are not, and those."""
