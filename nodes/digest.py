"""A digest of what numbers come from, equal in another process for equal work and another for any other."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor

PASSING = ("uuid", "sample_sigmas")  # entries of the host's that differ from run to run


def digest(*values: Any) -> str:
    """64 hex digits of numbers, texts, tensors, functions with what they close over, and objects that hold these.

    Networks count by their kind alone: which weights they have has to be among the values in another form.
    """
    found = _Digest()
    for value in values:
        found.add(value)
    return found.state.hexdigest()


class _Digest:
    def __init__(self) -> None:
        self.state = hashlib.sha256()
        self._open: set[int] = set()  # objects on the way to the one at hand: some hold each other
        self._seen: dict[int, tuple[int, Any]] = {}  # what was added and when: many hold the same ones

    def add(self, value: Any) -> None:
        if value is None or isinstance(value, (str, int, float, complex, bytes, torch.dtype, torch.device)):
            self._note(f"{type(value).__name__} {value!r};")
        elif isinstance(value, Tensor):
            data = value.detach().cpu().contiguous()
            self._note(f"{data.dtype}{tuple(data.shape)}")
            self.state.update(data.float().numpy().tobytes())
        elif id(value) in self._open:
            self._note("again;")
        else:
            self._open.add(id(value))
            self._add_parts(value)
            self._open.remove(id(value))

    def _add_parts(self, value: Any) -> None:
        if isinstance(value, Mapping):
            self._note(f"{len(value)}{{")
            for key in sorted((key for key in value if key not in PASSING), key=str):
                self._note(f"{key}:")
                self.add(value[key])
        elif isinstance(value, (list, tuple, set, frozenset)):
            self._note(f"{len(value)}[")
            for item in value if isinstance(value, (list, tuple)) else sorted(value, key=str):
                self.add(item)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            self._note(type(value).__qualname__)
            self.add({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
        elif isinstance(value, FunctionType):
            self._note(f"{value.__module__}.{value.__qualname__}")
            self.add(value.__code__)
            self.add((value.__defaults__, value.__kwdefaults__))
            self.add([_contents(cell) for cell in value.__closure__ or ()])
        elif isinstance(value, CodeType):
            self.state.update(value.co_code)
            self.add((value.co_names, [const for const in value.co_consts if not isinstance(const, frozenset)]))
        elif isinstance(value, MethodType):
            self.add(value.__func__)
            self.add(value.__self__)
        elif isinstance(value, (type, BuiltinFunctionType)):
            self._note(f"{value.__module__}.{value.__qualname__};")
        elif id(value) in self._seen:
            self._note(f"number {self._seen[id(value)][0]};")
        else:
            self._seen[id(value)] = (len(self._seen), value)
            self._note(f"{type(value).__module__}.{type(value).__qualname__};")
            if not isinstance(value, torch.nn.Module) and not hasattr(value, "model_options"):  # nor what wraps one
                self.add(getattr(value, "__dict__", None))

    def _note(self, text: str) -> None:
        self.state.update(text.encode())


def _contents(cell: CellType) -> Any:
    """What a function closes over; nothing where that has not been set yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None
