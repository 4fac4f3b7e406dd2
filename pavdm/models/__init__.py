"""Networks: the STDiT3 denoiser, the spatial-temporal VAE, the T5 text encoder, and their checkpoints."""
