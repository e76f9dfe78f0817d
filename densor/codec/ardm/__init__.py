"""Images of one size under an autoregressive network that codes many samples with each call."""
