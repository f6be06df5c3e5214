"""How good generated images are, and how far to trust the number."""
