"""Changes against a base: elements coded by how they differ from the same elements elsewhere."""
