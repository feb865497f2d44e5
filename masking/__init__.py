"""Which tokens are masked: word boundaries, spans, addressed randomness."""
