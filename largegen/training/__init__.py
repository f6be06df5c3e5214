"""Fitting the networks: the loop they share, and one task per network (autoencoder, encoder, denoiser)."""
