"""The mixing codec: floats by linear prediction and binary context mixing. See spec.md."""
