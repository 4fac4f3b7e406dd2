"""Training of STDiT3: clean clips noised as the sampler will show them, or whole as Open-Sora trains; LoRA."""
