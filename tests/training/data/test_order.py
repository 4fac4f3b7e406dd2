"""The order of a run's examples."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pavdm.training.data.order import EndlessOrder, epoch_order, never_used
from pavdm.training.task import Share

divisions = st.sampled_from([(1, 4, 1), (4, 1, 1), (2, 2, 1), (2, 1, 2), (1, 2, 2), (1, 1, 4)])


def steps(keys, seed, batch, world_size, accumulation):
    """Examples of each optimizer step, in the order of their numbers."""
    shares = [Share(rank, world_size, accumulation) for rank in range(world_size)]
    orders = [epoch_order(keys, [batch] * len(keys), seed=seed, epoch=2, share=share) for share in shares]
    micro_steps = [[item for batch in batches for item in batch] for batches in zip(*orders, strict=True)]
    return [
        [item for micro in micro_steps[begin : begin + accumulation] for item in micro]
        for begin in range(0, len(micro_steps), accumulation)
    ]


@given(st.integers(4, 30), st.integers(4, 30), divisions, st.integers(0, 5))
def test_a_step_sees_the_same_examples_however_it_is_divided(short, long, division, seed):
    keys = ["short"] * short + ["long"] * long
    batch, world_size, accumulation = division
    divided = steps(keys, seed, batch, world_size, accumulation)
    assert divided == steps(keys, seed, 4, 1, 1)
    assert all(len({keys[index] for index, _ in step}) == 1 for step in divided)
    assert len(divided) == short // 4 + long // 4
    assert len({index for step in divided for index, _ in step}) == 4 * len(divided)


def test_any_step_of_any_epoch_can_be_asked_for_first():
    keys = [i % 3 for i in range(20)]
    epochs = [epoch_order(keys, [2] * 20, seed=1, epoch=epoch) for epoch in range(4)]
    expected = [batch for epoch in epochs for batch in epoch]
    order = EndlessOrder(lambda epoch: epoch_order(keys, [2] * 20, seed=1, epoch=epoch))
    for index in (25, 3, 26, 0, len(expected) - 1):
        assert order[index] == expected[index]


def test_what_fills_no_step_is_told():
    assert never_used(["a"] * 3 + ["b"] * 4, [2] * 7, Share(0, 2)) == {"a": 3}
    assert never_used(["a"] * 3 + ["b"] * 4, [2] * 7, Share(0, 1, 2)) == {"a": 3}
    assert never_used(["a"] * 3 + ["b"] * 4, [2] * 7, Share()) == {}


def test_no_two_steps_share_an_example_number_where_batches_differ_in_size() -> None:
    def step(number: int, size: int, processes: int, accumulation: int) -> list[int]:
        shares = [Share(rank, processes, accumulation) for rank in range(processes)]
        batch = size // (processes * accumulation)
        indices = range(number * accumulation, (number + 1) * accumulation)
        largest = 8 // (processes * accumulation)
        return [example for i in indices for share in shares for example in share.examples(i, batch, largest)]

    sizes = [8, 4, 8, 4, 4, 8]
    seen = [example for number, size in enumerate(sizes) for example in step(number, size, 1, 1)]
    assert len(set(seen)) == len(seen)
    for number, size in enumerate(sizes):
        assert step(number, size, 1, 1) == step(number, size, 2, 1) == step(number, size, 2, 2)
