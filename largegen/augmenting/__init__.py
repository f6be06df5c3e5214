"""Variations of labelled images, for the training of classifiers."""
