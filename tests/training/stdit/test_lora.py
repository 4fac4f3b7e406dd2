"""LoRA: what it leaves alone, that it learns, and that its file says what the layers do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from memory_source import WIDTH, MemorySource
from safetensors.torch import load_file

from pavdm.errors import InputError
from pavdm.models.stdit3 import STDiT3, STDiT3Config, initialize_weights
from pavdm.training.run import train
from pavdm.training.run_options import RunOptions
from pavdm.training.stdit.lora import add_lora, merged
from pavdm.training.stdit.noising import ProgressiveWindows
from pavdm.training.stdit.task import LORA_FILE, STDiTTask
from pavdm.training.stdit.windows import Schedule, TrainingWindows
from pavdm.training.task import Share

CONFIG = STDiT3Config(hidden_size=32, depth=1, num_heads=2, caption_channels=WIDTH, model_max_length=8)
WINDOWS = ProgressiveWindows(TrainingWindows(Schedule(3, 2, 6)))
RANK, ALPHA = 3, 6.0


def network() -> STDiT3:
    made = STDiT3(CONFIG)
    initialize_weights(made, torch.Generator().manual_seed(0))
    return made


def output(of: STDiT3) -> torch.Tensor:
    task = STDiTTask(of, MemorySource(), WINDOWS)
    batch = task.examples(Share())[3]
    with torch.no_grad():
        return task.objective.velocity(batch.noised, batch.embeddings, fps=24.0, size=(32, 48))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[STDiT3, Path]:
    """A network trained by LoRA without an average, and its last checkpoint."""
    tuned = network()
    add_lora(tuned, RANK, ALPHA, torch.Generator().manual_seed(1))
    options = RunOptions(steps=8, learning_rate=1e-2, warmup=0, ema=0.0, cpu=True)
    task = STDiTTask(tuned, MemorySource(), WINDOWS, lora_alpha=ALPHA)
    return tuned, train(task, options, tmp_path_factory.mktemp("lora"), quiet=True)


def test_it_starts_as_the_network_and_keeps_the_names_of_its_tensors() -> None:
    plain, tuned = network(), network()
    add_lora(tuned, RANK, ALPHA, torch.Generator().manual_seed(1))
    assert torch.equal(output(tuned), output(plain))
    assert plain.state_dict().keys() <= tuned.state_dict().keys()
    trained = {name for name, parameter in tuned.named_parameters() if parameter.requires_grad}
    layers = (
        "attn.qkv",
        "attn.proj",
        "cross_attn.q_linear",
        "cross_attn.kv_linear",
        "cross_attn.proj",
        "mlp.fc1",
        "mlp.fc2",
    )
    blocks = ("spatial_blocks.0", "temporal_blocks.0")
    assert trained == {f"{b}.{layer}.lora_{side}.weight" for b in blocks for layer in layers for side in "AB"}


def test_only_the_lora_is_trained_and_it_changes_the_output(run: tuple[STDiT3, Path]) -> None:
    tuned, _ = run
    for name, tensor in network().state_dict().items():
        assert torch.equal(tuned.state_dict()[name], tensor), name
    assert not torch.allclose(output(tuned), output(network()), atol=1e-2)


def test_its_file_added_to_the_weights_by_hand_gives_what_was_trained(run: tuple[STDiT3, Path]) -> None:
    tuned, last = run
    file = load_file(last / "model" / LORA_FILE)
    weights = network().state_dict()
    changed = 0
    for name in list(weights):
        layer = "diffusion_model." + name.removesuffix(".weight")
        if f"{layer}.lora_A.weight" in file:
            down, up = file.pop(f"{layer}.lora_A.weight"), file.pop(f"{layer}.lora_B.weight")
            assert down.shape[0] == up.shape[1] == RANK
            weights[name] = weights[name] + float(file.pop(f"{layer}.alpha")) / RANK * (up @ down)
            changed += 1
    assert changed == 14 and not file
    by_hand = STDiT3(CONFIG)
    by_hand.load_state_dict(weights)
    torch.testing.assert_close(output(by_hand), output(tuned), rtol=1e-4, atol=1e-5)
    ours = STDiT3(CONFIG)
    ours.load_state_dict(merged(tuned.state_dict(), ALPHA))
    torch.testing.assert_close(output(ours), output(by_hand), rtol=1e-5, atol=1e-6)


def test_a_checkpoint_holds_the_lora_and_not_the_network(run: tuple[STDiT3, Path]) -> None:
    _, last = run
    assert [path.name for path in (last / "model").iterdir()] == [LORA_FILE]
    names = load_file(last / "state.safetensors")
    frozen = {name for name in names if "lora" not in name}
    assert frozen == {"weights.velocity.network.y_embedder.y_embedding"}  # a buffer


def test_frozen_weights_in_half_precision_train_nearly_as_in_full(tmp_path: Path) -> None:
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        tuned = network().to(dtype)
        add_lora(tuned, RANK, ALPHA, torch.Generator().manual_seed(1))
        precision = "bf16" if dtype is torch.bfloat16 else "no"
        options = RunOptions(steps=8, learning_rate=1e-2, warmup=0, precision=precision, cpu=True)
        out = tmp_path / precision
        train(STDiTTask(tuned, MemorySource(), WINDOWS, lora_alpha=ALPHA), options, out, quiet=True)
        lines = (out / "loss.jsonl").read_text().splitlines()
        losses[precision] = [float(line.split('"loss": ')[1].split(",")[0]) for line in lines]
        assert all(p.dtype is torch.float32 for p in tuned.parameters() if p.requires_grad)
    assert losses["no"] != losses["bf16"]
    for full, half in zip(losses["no"], losses["bf16"], strict=True):
        assert abs(half - full) < 0.05 * full


@pytest.mark.parametrize(("rank", "alpha"), [(0, 1.0), (33, 1.0), (4, 0.0), (4, float("nan"))])
def test_ranks_and_strengths_that_make_no_lora_are_refused(rank: int, alpha: float) -> None:
    with pytest.raises(InputError):
        add_lora(network(), rank, alpha, torch.Generator())
