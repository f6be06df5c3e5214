"""Pixels to files, and what these say of themselves."""
