"""Latents and their images: the losses of potential flows, traversals, inversion, classifiers and predictors."""
