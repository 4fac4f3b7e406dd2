"""Training: what is noised and how (objective, windows, frame_masks), and what it can be learned from (world)."""
