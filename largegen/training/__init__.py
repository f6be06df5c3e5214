"""Train the networks: one loop, and one task per network (autoencoder, encoder, denoiser)."""
