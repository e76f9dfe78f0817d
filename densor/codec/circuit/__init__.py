"""Images of one size under a learned circuit: a hidden Chow-Liu tree, each image by itself."""
