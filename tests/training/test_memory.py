"""The estimate of memory against what torch's allocator really handed out."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from pavdm.models.stdit3 import STDiT3, STDiT3Config, initialize_weights
from pavdm.training.memory import attention_without_matrix, estimate, peak_bytes
from pavdm.training.run import checkpoint_blocks
from pavdm.training.stdit.lora import add_lora
from pavdm.training.stdit.task import NoisedClips, STDiTObjective, stand_in

CONFIG = STDiT3Config(hidden_size=64, depth=2, num_heads=4, caption_channels=32, model_max_length=16)
SHAPE, TOKENS, SIZE = (2, 4, 6, 8, 12), 5, (64, 96)


def prepared(device: str, lora: bool, recomputed: bool, attention: object = None) -> STDiTObjective:
    keywords = {} if attention is None else {"attention": attention}
    network = STDiT3(CONFIG, device=device, **keywords)
    if device == "cpu":
        initialize_weights(network, torch.Generator().manual_seed(0))
    if lora:
        add_lora(network, 4, 4.0, torch.Generator())
    if recomputed:
        checkpoint_blocks(network.blocks())
    return STDiTObjective(network)


def with_values(batch: NoisedClips) -> NoisedClips:
    noised = type(batch.noised)(
        *(
            torch.zeros_like(t, device="cpu")
            for t in (batch.noised.latents, batch.noised.timesteps, batch.noised.target)
        ),
        torch.ones(batch.noised.counted.shape, dtype=torch.bool),
    )
    texts = tuple(torch.ones_like(text, device="cpu") for text in batch.embeddings)
    return NoisedClips(noised, texts, batch.dropped, batch.fps, batch.size)


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
def test_a_step_takes_as_much_as_was_estimated(lora: bool, recomputed: bool) -> None:
    example = stand_in(SHAPE, TOKENS, CONFIG.caption_channels, SIZE)
    simulated = prepared("meta", lora, recomputed, attention_without_matrix)
    estimated = peak_bytes(lambda: simulated.forward(example)[0].backward())

    real, batch = prepared("cpu", lora, recomputed), with_values(example)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        real(batch)[0].backward()
    now = peak = 0
    for event in measured.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    assert peak > 2**20
    assert abs(estimated - peak) < 0.02 * peak


def test_weights_optimizer_and_average_are_counted_as_they_are_kept() -> None:
    network = STDiT3(CONFIG, dtype=torch.bfloat16, device="meta")
    add_lora(network, 4, 4.0, torch.Generator())
    of = dict([*network.named_parameters(), *network.named_buffers()])
    lora = sum(tensor.numel() for name, tensor in of.items() if "lora" in name)
    frozen = sum(tensor.numel() for name, tensor in of.items() if "lora" not in name)
    counted = estimate(network, 1000, ema=True, mixed=True)
    assert (counted.weights, counted.copies) == (2 * frozen + 4 * lora, 2 * lora)
    assert (counted.optimizer, counted.average, counted.step) == (8 * lora, 4 * lora, 1000)
    assert counted.total == 2 * frozen + 18 * lora + 1000
    assert estimate(network, 1000, ema=False, mixed=False).total == 2 * frozen + 12 * lora + 1000
