"""What is done with latents: losses of potential flows, traversal, inversion, classifiers and predictors of images."""
