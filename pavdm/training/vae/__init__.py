"""Training of the video VAE: its objective, its task, its options."""
