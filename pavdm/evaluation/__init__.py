"""Measuring long video: seams, drift, motion, cuts, repetition; `measure` one video, `compare` several methods."""

from pavdm.evaluation.comparison import Comparison, Estimate, compare
from pavdm.evaluation.measure import Measurements, measure

__all__ = ["Comparison", "Estimate", "Measurements", "compare", "measure"]
