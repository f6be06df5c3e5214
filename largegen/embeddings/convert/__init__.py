"""Embedding files of other projects to ours."""
