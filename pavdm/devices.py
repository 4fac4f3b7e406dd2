"""Which device a person means, and whether it can be used here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pavdm.errors import InputError

if TYPE_CHECKING:
    import torch


def usable_device(name: str) -> torch.device:
    """The device of this name; auto: the best there is. Raises InputError if it cannot be used here."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise AssertionError("cpu, cuda and mps can")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"the device {name!r} cannot be used here ({reason}); see `pavdm doctor`") from error
    return device
