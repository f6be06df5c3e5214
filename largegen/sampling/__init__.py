"""Noise to latents to pixels: the samplers, which know no network."""
