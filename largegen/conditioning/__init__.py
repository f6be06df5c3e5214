"""Which embeddings lie under an image."""
