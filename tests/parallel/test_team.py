"""Who belongs to which team, on which device, and when a team is none any more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pavdm.batch.local import LocalMaker
from pavdm.errors import InputError
from pavdm.parallel.launch import place
from pavdm.parallel.team import Team, own_device


def numbered(rank: int) -> tuple[int, int, int]:
    with Team(2, 60, lambda reason: None, several=True) as team:
        team.connect(torch.device("cpu"), guided=True)
        if team.leads:
            team.send("hello", {"from": torch.tensor([rank])}, {"to": ["everyone"]})
        else:
            message = team.receive()
            assert message.facts == {"to": ["everyone"]}
            assert message.tensors["from"].item() == rank - 1
            assert team.receive().kind == "end"
        return team.rank, team.half, team.group_size


def test_teams_of_two_hear_their_own_leader_only(run_team: Any) -> None:
    first, statuses = run_team(4, numbered)
    assert first == (0, 0, 1)
    assert statuses == [0] * 4


def test_only_a_batch_may_have_several_teams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert place(4) == 3
    assert place(2, several=True) == 3
    with pytest.raises(InputError, match="needs 2 processes, and 4 were started"):
        place(2)
    with pytest.raises(InputError, match="needs 3 processes, or a multiple, and 4 were started"):
        place(3, several=True)


def test_every_process_has_the_gpu_of_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device("auto") == own_device("cuda") == "cuda:1"
    assert own_device("cpu") == "cpu"
    for name in ("cuda:0", "mps"):
        with pytest.raises(InputError, match="a GPU for each process"):
            own_device(name)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="a machine with 2 GPUs"):
        own_device("cuda")


def test_a_batch_does_not_go_on_with_a_team_that_lost_a_process() -> None:
    networks: Any = SimpleNamespace(precision=SimpleNamespace(device=torch.device("cpu")))
    for in_order in (True, False):
        team: Any = SimpleNamespace(in_order=in_order)
        assert LocalMaker(networks, [], "rank 0", team).is_fit() is in_order
