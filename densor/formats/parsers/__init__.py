"""Other people's file formats: where in a file its tensors are."""
