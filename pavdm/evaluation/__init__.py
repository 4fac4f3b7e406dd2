"""Measuring long video: seams, drift, motion, cuts, repetition; `measure` one video, `compare` several methods."""

from pavdm.evaluation.measure import Measurements, measure

__all__ = ["Measurements", "measure"]
