"""How good generated pictures are, and how far to trust the number."""
