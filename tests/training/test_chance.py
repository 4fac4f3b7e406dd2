"""Draws that only names or numbers decide."""

from __future__ import annotations

import torch

from pavdm.training.chance import generator_for, integer, uniform


def test_every_number_of_the_key_counts():
    draws = {tuple(uniform(2, *key)) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}
    assert len(draws) == 4
    assert tuple(uniform(2, 0, 1, 0)) in draws


def test_every_name_counts_and_the_order_of_draws_does_not():
    def drawn(*names: object) -> float:
        return float(torch.rand(1, generator=generator_for(*names)))

    first = [drawn(*names) for names in [(0, "text", 1), (1, "text", 1), (0, "noise", 1), (0, "text", 2)]]
    assert len(set(first)) == 4
    assert drawn(0, "text", 2) == first[-1]


def test_whole_numbers_are_all_drawn_and_none_beyond():
    generator = generator_for("whole")
    assert {integer(3, generator) for _ in range(60)} == {0, 1, 2}
