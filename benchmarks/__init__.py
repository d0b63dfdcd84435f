"""Measured comparisons with other optimisers; see README.md."""
