"""Training of a small T5 encoder and its tokenizer."""
