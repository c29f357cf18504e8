"""Latents and their images: losses of flows, transitions, traversals, inversion, classifiers and predictors."""
