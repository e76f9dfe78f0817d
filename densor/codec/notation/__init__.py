"""Elements that stand in a file in another form than their bytes: written out, and coded so."""
