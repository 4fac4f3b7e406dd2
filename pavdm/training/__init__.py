"""Training. Flat here: the run that trains any task, how it starts, what can be typed, and the procedural world.

`data/` brings clips, `stdit/`, `vae/` and `text_encoder/` are the tasks: each its objective, its task and its options.
"""
