"""What every node file needs of the host: the menu's name, schemas that older hosts accept, model files by name."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.model_patcher
import folder_paths
import numpy as np
import torch
from comfy_api.latest import io
from numpy.typing import NDArray
from torch import Tensor

CATEGORY = "PA-VDM"
_FIELDS = {field.name for field in dataclasses.fields(io.Schema)}


def schema(**fields: Any) -> io.Schema:
    """A node's schema; fields that this host does not know yet (search aliases and the like) are left out."""
    return io.Schema(category=CATEGORY, **{name: value for name, value in fields.items() if name in _FIELDS})


def model_file(folder: str, name: str) -> str:
    """Full path of `name`, one of the host's files in the models folder `folder`."""
    return folder_paths.get_full_path_or_raise(folder, name)


def make_patcher(module: Any, load_device: Any, offload_device: Any, disable_dynamic: bool = False) -> Any:
    """The host's own patcher around `module`, of the class that it uses at this moment (classic or dynamic VRAM)."""
    classic = comfy.model_patcher.ModelPatcher
    kind = classic if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", classic)
    return kind(module, load_device=load_device, offload_device=offload_device)


def is_dynamic(patcher: Any) -> bool:
    """Whether `patcher` pages weights in by itself, so that they must be assigned, not copied (0.12 and later)."""
    return bool(getattr(patcher, "is_dynamic", lambda: False)())


def check_interrupted() -> None:
    """Raise the host's own exception when the user pressed Cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def to_uint8(images: Tensor) -> NDArray[np.uint8]:
    """IMAGE (F, H, W, 3) in 0..1, or one picture of it -> the same as a uint8 array."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device's memory was full."""
    newer: Callable[[Exception], bool] | None = getattr(comfy.model_management, "is_oom", None)
    return newer(error) if newer is not None else isinstance(error, comfy.model_management.OOM_EXCEPTION)


def call_if_there(function: Callable[..., Any] | None, *arguments: Any) -> None:
    """Call what only newer hosts have."""
    if function is not None:
        function(*arguments)


@contextmanager
def without_line(text: str) -> Iterator[None]:
    """While it is open, what this thread logs with `text` in it to the root logger, as the host does, is left out."""
    root, thread = logging.getLogger(), threading.get_ident()

    def wanted(record: logging.LogRecord) -> bool:
        return record.thread != thread or text not in record.getMessage()

    root.addFilter(wanted)
    try:
        yield
    finally:
        root.removeFilter(wanted)
