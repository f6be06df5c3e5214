"""Slides, scenes and images: files to pixels, at any resolution."""
