"""Crops through networks."""
