"""Training: the loop that every run shares, and what is trained in it."""
