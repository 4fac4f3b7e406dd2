"""ComfyUI from outside, over its own HTTP and websocket interface: run workflows, with or without a server at hand."""
