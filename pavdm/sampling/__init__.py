"""Sampling: the noise schedule as a table, the progressive window and its state, and the baseline loop."""
