"""ComfyUI's entry point. Nothing is imported before ComfyUI asks for the nodes."""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./web"  # the help pages


async def comfy_entrypoint() -> Any:
    """The extension that ComfyUI loads."""
    from .nodes import Extension

    return Extension()
