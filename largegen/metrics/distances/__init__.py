"""Distances between two sets of features: arrays in, numbers out."""
