"""Tokens shared by frames or by positions, and exchanged: against slices of the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pavdm.parallel.exchange import Exchange
from pavdm.parallel.team import Team


def no_way_out(reason: str) -> None:
    raise SystemExit(reason)


def exchanged(rank: int, size: int, length: int, positions: int, dtype: torch.dtype) -> None:
    whole = torch.randn(2, length, positions, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    with Team(size, 60, no_way_out) as team:
        team.connect(torch.device("cpu"), guided=False)
        exchange = Exchange(team.group, rank, size)
        frames = whole.tensor_split(size, dim=1)[rank]
        columns = whole.tensor_split(size, dim=2)[rank]
        assert torch.equal(whole[:, exchange.frames(length)], frames)
        assert torch.equal(exchange.to_positions(frames, length), columns)
        assert torch.equal(exchange.to_frames(columns, positions), frames)
        assert torch.equal(exchange.all_positions(columns, positions), whole)
        if not team.leads:
            assert team.receive().kind == "end"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("size", "length", "positions"), [(2, 4, 6), (3, 7, 5), (4, 3, 2)])
def test_every_process_gets_its_share_bit_for_bit(
    run_team: Any, size: int, length: int, positions: int, dtype: torch.dtype
) -> None:
    _, statuses = run_team(size, exchanged, size, length, positions, dtype)
    assert statuses == [0] * size
