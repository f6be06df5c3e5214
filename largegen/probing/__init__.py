"""How telling embeddings are: classifiers on them, cross-validated."""
