"""Words with a known number of CLIP tokens."""

HAT = "hat "  # one token
