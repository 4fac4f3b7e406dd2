"""Muon: what it steps along, and that one learning rate serves matrices and vectors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pavdm.training.muon import ADAMW_RMS, Muon, orthogonal, shares


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_the_direction_is_near_the_orthogonal_factor_of_the_momentum(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    close = orthogonal(matrix)
    values = torch.linalg.svdvals(close)
    assert values.min() > 0.6 and values.max() < 1.3
    assert torch.nn.functional.cosine_similarity(close.flatten(), (u @ v).flatten(), dim=0) > 0.97


def test_a_first_step_is_as_large_as_adamws_for_any_size_of_gradient():
    for scale in (1e-4, 1e3):
        weight = nn.Parameter(torch.zeros(32, 3, 3, 3))
        optimizer = Muon([weight], learning_rate=0.1)
        weight.grad = scale * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        optimizer.step()
        assert weight.detach().square().mean().sqrt() == pytest.approx(0.1 * ADAMW_RMS, rel=0.25)


def test_vectors_are_moved_as_adamw_moves_them_and_matrices_alone_decay():
    torch.manual_seed(0)
    vector, twin = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    matrix = nn.Parameter(torch.ones(4, 4))
    ours = Muon([vector, matrix], 0.01, (0.9, 0.99), 1e-8, weight_decay=0.5)
    theirs = torch.optim.AdamW([twin], 0.01, (0.9, 0.99), 1e-8, weight_decay=0.0)
    for step in range(5):
        gradient = torch.randn(5, generator=torch.Generator().manual_seed(step))
        vector.grad, twin.grad, matrix.grad = gradient.clone(), gradient.clone(), torch.zeros(4, 4)
        ours.step()
        theirs.step()
    assert torch.equal(vector, twin)
    assert matrix.detach() == pytest.approx((1 - 0.01 * 0.5) ** 5, rel=1e-5)


def test_a_run_that_goes_on_from_a_saved_optimizer_takes_the_same_steps():
    def gradients(step: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(step)
        return [torch.randn(6, 4, generator=generator), torch.randn(6, generator=generator)]

    def run(optimizer: Muon, weights: list[nn.Parameter], steps: range) -> None:
        for step in steps:
            for weight, gradient in zip(weights, gradients(step), strict=True):
                weight.grad = gradient
            optimizer.step()

    whole = [nn.Parameter(torch.ones(6, 4)), nn.Parameter(torch.ones(6))]
    run(Muon(whole, 0.01), whole, range(6))
    begun = [nn.Parameter(torch.ones(6, 4)), nn.Parameter(torch.ones(6))]
    first = Muon(begun, 0.01)
    run(first, begun, range(3))
    continued = [nn.Parameter(weight.detach().clone()) for weight in begun]
    second = Muon(continued, 0.01)
    second.load_state_dict(first.state_dict())
    run(second, continued, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole, continued, strict=True))


SHAPES = [(8, 24), (24, 8), (16, 16), (4, 3, 3, 3), (5,)]


def _steps(rank: int | None, store: str, out: str) -> None:
    """Three steps on the same gradients; with a rank, as one of two processes."""
    if rank is not None:
        torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    weights = [nn.Parameter(torch.ones(shape)) for shape in SHAPES]
    optimizer = Muon(weights, 0.01, weight_decay=0.1)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()
    torch.save([weight.detach() for weight in weights], f"{out}{rank}.pt")
    if rank is not None:
        torch.distributed.destroy_process_group()


def test_processes_that_share_the_work_take_the_steps_of_one(tmp_path):
    out = str(tmp_path / "weights")
    torch.multiprocessing.spawn(_steps, (str(tmp_path / "store"), out), nprocs=2)
    _steps(None, "", out)
    alone, *both = (torch.load(f"{out}{rank}.pt") for rank in (None, 0, 1))
    for weights in both:
        for ours, theirs in zip(weights, alone, strict=True):
            assert torch.equal(ours, theirs)


def test_the_work_is_shared_evenly():
    assert shares([8, 1, 4, 3], 2) == [0, 1, 1, 1]
    assert shares([2, 2, 2], 1) == [0, 0, 0]
