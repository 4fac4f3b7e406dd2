"""Measuring long video: seams, drift, motion, cuts, repetition; `measure` one video, `compare` several methods."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pavdm.evaluation.comparison import Comparison, Estimate, compare
    from pavdm.evaluation.measurement import Measurements, measure
    from pavdm.evaluation.report import write_report

__all__ = ["Comparison", "Estimate", "Measurements", "compare", "measure", "write_report"]

_HOMES = {
    "Comparison": "comparison",
    "Estimate": "comparison",
    "compare": "comparison",
    "Measurements": "measurement",
    "measure": "measurement",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: the command line reads its options from here and must start fast."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pavdm.evaluation.{_HOMES[name]}"), name)
