"""PA-VDM: progressive autoregressive video diffusion (arXiv 2410.08151), a host-free library and command."""

__version__ = "0.1.0"
