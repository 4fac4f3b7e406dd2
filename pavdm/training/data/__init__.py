"""Clips to train on: listed, decoded or rendered, in batches; or encoded once, in shards."""
