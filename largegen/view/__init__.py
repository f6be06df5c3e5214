"""Slides and results to look at: tiles cut on demand, overlays and provenance, on a page from a server or a folder."""
