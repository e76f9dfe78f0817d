"""Parts of a chunk that are coded apart, each with a model of its own inside the chunk's model."""
