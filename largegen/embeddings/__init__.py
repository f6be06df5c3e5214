"""Slides to grids of embeddings, and their files."""
