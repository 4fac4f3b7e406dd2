"""Training: clips, what of them is noised and how, the networks that learn from it, and the run that trains them."""
