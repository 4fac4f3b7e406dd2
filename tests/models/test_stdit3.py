"""STDiT3 against the published network's outputs (tests/golden), and against computations that do not use it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from pavdm.errors import InputError
from pavdm.models.attention import sdpa
from pavdm.models.stdit3 import STDiT3, STDiT3Config, TextContext, initialize_weights
from pavdm.models.stdit3_blocks import TextRun, text_runs

GOLDEN = Path(__file__).parents[1] / "golden"
MODEL = json.loads((GOLDEN / "model.json").read_text())
WEIGHTS = load_file(GOLDEN / "stdit3_weights.safetensors")
CASES = {case["name"]: case for case in MODEL["forward"]}
SIZE, FPS = (240, 426), 24.0


def golden_network(**keywords: Any) -> STDiT3:
    network = STDiT3(STDiT3Config.from_dict(MODEL["stdit3_config"]), **keywords)
    network.load_state_dict({key: value for key, value in WEIGHTS.items() if key != "rope.freqs"})
    return network


def relative_error(out: Tensor, reference: Tensor) -> float:
    return float((out.detach() - reference).norm() / reference.norm())


def golden_texts(network: STDiT3, y: Tensor, mask: Tensor) -> list[TextContext]:
    """y (B, 1, L, C), mask (1, L): one context per batch item, real tokens only."""
    return network.project_text(list(y[:, 0, : int(mask.sum())]))


def one_text_per_item(latents: Tensor) -> Tensor:
    return torch.arange(latents.shape[0])[:, None].expand(-1, latents.shape[2])


def random_inputs(batch: int = 2, length: int = 6, height: int = 5, width: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, 4, length, height, width, generator=generator)
    timesteps = 1000 * torch.rand(batch, length, generator=generator)
    return latents, timesteps


def random_texts(*num_tokens: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(count, 32, generator=generator) for count in num_tokens]


@pytest.mark.parametrize("autograd", [False, True])
@pytest.mark.parametrize("name", list(CASES))
def test_forward_equals_the_published_network(name: str, autograd: bool) -> None:
    case, network = CASES[name], golden_network()
    golden = {
        key.removeprefix(f"{name}."): value
        for key, value in load_file(GOLDEN / "stdit3_forward.safetensors").items()
        if key.startswith(f"{name}.")
    }
    with torch.set_grad_enabled(autograd):
        out = network(
            golden["x"],
            golden["timestep"],
            golden_texts(network, golden["y"], golden["mask"]),
            one_text_per_item(golden["x"]),
            case["fps"],
            (case["height"], case["width"]),
            frame_mask=golden.get("x_mask"),
        )
    assert out.dtype == torch.float32
    assert relative_error(out, golden["out"]) < 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_stays_closer_to_fp32_than_the_published_bf16(dtype: torch.dtype) -> None:
    golden = load_file(GOLDEN / "stdit3_forward_bf16.safetensors")
    published = relative_error(golden["out_bf16"], golden["out_fp32"])
    network = golden_network().to(dtype)
    with torch.no_grad():
        out = network(
            golden["x"],
            golden["timestep"],
            golden_texts(network, golden["y"], golden["mask"]),
            one_text_per_item(golden["x"]),
            FPS,
            SIZE,
        )
    assert out.dtype == torch.float32
    assert relative_error(out, golden["out_fp32"]) < (1e-5 if dtype == torch.float32 else published / 4)


def test_checkpoint_keys_are_the_published_ones() -> None:
    assert golden_network().state_dict().keys() == WEIGHTS.keys() - {"rope.freqs"}


@torch.no_grad()
def test_one_timestep_per_item_is_the_same_as_equal_timesteps_per_frame() -> None:
    network, (latents, timesteps) = golden_network(), random_inputs()
    contexts, texts = network.project_text(random_texts(4, 4)), one_text_per_item(latents)
    scalar = network(latents, timesteps[:, 0], contexts, texts, FPS, SIZE)
    per_frame = network(latents, timesteps[:, :1].expand(-1, 6), contexts, texts, FPS, SIZE)
    assert torch.equal(scalar, per_frame)


@torch.no_grad()
def test_prompts_of_different_lengths_in_a_batch_do_not_see_each_other() -> None:
    network, (latents, timesteps) = golden_network(), random_inputs(batch=3)
    contexts = network.project_text(random_texts(3, 12, 1))
    together = network(latents, timesteps, contexts, one_text_per_item(latents), FPS, SIZE)
    for i in range(3):
        alone = network(latents[i : i + 1], timesteps[i : i + 1], contexts, torch.full((1, 6), i), FPS, SIZE)
        assert relative_error(together[i : i + 1], alone) < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("slice_bytes", [None, 2**11, 2**30])
def test_each_frame_attends_to_its_own_text_only(slice_bytes: int | None) -> None:
    network = golden_network()
    block = network.spatial_blocks[0]
    contexts = network.project_text(random_texts(3, 5, 5))
    texts = torch.tensor([[0, 0, 1, 1, 2, 2], [1, 2, 2, 0, 0, 1]])
    x = torch.randn(2, 6, 9, 64, generator=torch.Generator().manual_seed(3))
    runs = [
        (
            run,
            torch.stack([contexts[i].keys[0] for i in run.texts]),
            torch.stack([contexts[i].values[0] for i in run.texts]),
        )
        for run in text_runs(texts, [3, 5, 5])
    ]
    out = block._attend_to_text(x.clone(), runs, slice_bytes)

    # all tokens of all texts at once, under a mask
    keys, values = (torch.cat(pair, dim=1) for pair in zip(*((c.keys[0], c.values[0]) for c in contexts), strict=True))
    owner = torch.tensor([0] * 3 + [1] * 5 + [2] * 5)
    queries = F.linear(x, block.cross_attn.q_linear.weight, block.cross_attn.q_linear.bias).unflatten(3, (4, 16))
    scores = torch.einsum("btshd,hld->btshl", queries, keys) / 4
    scores = scores.masked_fill((texts[:, :, None] != owner)[:, :, None, None], -torch.inf)
    attended = torch.einsum("btshl,hld->btshd", scores.softmax(-1), values).flatten(3)
    expected = x + F.linear(attended, block.cross_attn.proj.weight, block.cross_attn.proj.bias)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_text_that_changes_name_but_not_content_changes_nothing() -> None:
    network, (latents, timesteps) = golden_network(), random_inputs()
    text = random_texts(4)[0]
    contexts = network.project_text([text, text])
    one = network(latents, timesteps, contexts, torch.zeros(2, 6, dtype=torch.long), FPS, SIZE)
    two = network(latents, timesteps, contexts, torch.tensor([[0, 0, 0, 1, 1, 1], [1, 0, 0, 0, 0, 1]]), FPS, SIZE)
    assert relative_error(two, one) < 1e-6


@torch.no_grad()
def test_a_text_change_late_in_the_window_reaches_the_output() -> None:
    network, (latents, timesteps) = golden_network(), random_inputs(batch=1)
    contexts = network.project_text(random_texts(4, 7))
    before = network(latents, timesteps, contexts, torch.zeros(1, 6, dtype=torch.long), FPS, SIZE)
    after = network(latents, timesteps, contexts, torch.tensor([[0, 0, 0, 0, 0, 1]]), FPS, SIZE)
    changes = (after - before).square().mean(dim=(0, 1, 3, 4))
    assert changes.argmax() == 5


def test_text_runs_are_as_few_as_unmasked_attention_allows() -> None:
    constant = torch.tensor([[0] * 4, [1] * 4])
    assert text_runs(constant, [7, 7]) == [TextRun(0, 2, 0, 4, (0, 1))]
    assert text_runs(constant, [7, 8]) == [TextRun(0, 1, 0, 4, (0,)), TextRun(1, 2, 0, 4, (1,))]
    changing = torch.tensor([[0, 0, 2, 2], [1, 1, 1, 1]])
    assert text_runs(changing, [7, 7, 5]) == [
        TextRun(0, 2, 0, 2, (0, 1)),
        TextRun(0, 1, 2, 4, (2,)),
        TextRun(1, 2, 2, 4, (1,)),
    ]


@torch.no_grad()
def test_slices_change_nothing_but_the_size_of_the_temporaries() -> None:
    largest = 0

    def measured(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, q.nbytes)
        return sdpa(q, k, v)

    network, (latents, timesteps) = golden_network(attention=measured), random_inputs()
    contexts = network.project_text(random_texts(4, 6))
    arguments = (latents, timesteps, contexts, one_text_per_item(latents), FPS, SIZE)
    mask = torch.tensor([[True] * 4 + [False] * 2] * 2)
    inputs = [tensor.clone() for tensor in (latents, timesteps, *contexts[0].keys)]
    whole = network(*arguments, frame_mask=mask)
    whole_largest, largest = largest, 0
    network.slice_bytes = 1
    sliced = network(*arguments, frame_mask=mask)
    assert largest <= whole_largest / 6
    assert relative_error(sliced, whole) < 1e-6
    assert all(map(torch.equal, inputs, (latents, timesteps, *contexts[0].keys)))


def test_gradients_equal_finite_differences() -> None:
    network, (latents, timesteps) = golden_network(), random_inputs(length=3)
    embeddings, texts = random_texts(4, 6), torch.tensor([[0, 0, 1], [1, 1, 1]])
    mask = torch.tensor([[False, True, True], [True, True, True]])
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(2, 8, 3, 5, 6, generator=generator)
    parameters = dict(network.named_parameters())
    directions = {name: torch.randn(p.shape, generator=generator) * p.std() for name, p in parameters.items()}

    def loss() -> Tensor:
        contexts = network.project_text(embeddings)
        out = network(latents, timesteps, contexts, texts, FPS, SIZE, frame_mask=mask)
        return (out.double() * weight).sum()

    loss().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in parameters.values())
    slope = sum(float((p.grad * directions[name]).detach().double().sum()) for name, p in parameters.items())

    step, values = 1e-3, []
    with torch.no_grad():
        for sign in (1, -1):
            for name, p in parameters.items():
                p += sign * step * directions[name]
            values.append(float(loss()))
            for name, p in parameters.items():
                p -= sign * step * directions[name]
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=5e-3)


def calls_of(module: nn.Module) -> list[Tensor]:
    inputs: list[Tensor] = []
    module.register_forward_pre_hook(lambda _module, arguments: inputs.append(arguments[0]))
    return inputs


@torch.no_grad()
def test_only_distinct_timesteps_are_embedded_and_text_is_projected_once() -> None:
    network, (latents, _) = golden_network(), random_inputs()
    contexts = network.project_text(random_texts(4, 4))
    timesteps = torch.tensor([0.0, 0.0, 500.5, 500.5, 1000.0, 1000.0]).expand(2, -1)
    embedded, modulations = calls_of(network.t_embedder), calls_of(network.t_block)
    projections = [calls_of(block.cross_attn.kv_linear) for block in network.blocks()]
    network(latents, timesteps, contexts, one_text_per_item(latents), FPS, SIZE)
    assert [x.tolist() for x in embedded] == [[0.0, 500.5, 1000.0]]
    assert [len(x) for x in modulations] == [3]
    assert projections == [[], [], [], []]


@torch.no_grad()
def test_positions_built_once_serve_windows_of_any_length() -> None:
    network, (latents, timesteps) = golden_network(), random_inputs()
    contexts, texts = network.project_text(random_texts(4, 4)), one_text_per_item(latents)
    positions = network.positions((5, 6), SIZE, "cpu")
    for length in (6, 2):
        inputs = (latents[:, :, :length], timesteps[:, :length], contexts, texts[:, :length], FPS, SIZE)
        assert torch.equal(network(*inputs, positions=positions), network(*inputs))


def test_weight_layers_and_attention_come_from_outside() -> None:
    made, calls = [], 0

    def counted(layer: type[nn.Module]) -> Any:
        def make(*arguments: Any, **keywords: Any) -> nn.Module:
            module = layer(*arguments, **keywords)
            made.append(module)
            return module

        return make

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return sdpa(q, k, v)

    operations = SimpleNamespace(
        **{name: counted(getattr(nn, name)) for name in ("Linear", "Conv3d", "LayerNorm", "RMSNorm")}
    )
    network = golden_network(operations=operations, attention=attention)
    layers = [
        module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv3d | nn.LayerNorm | nn.RMSNorm)
    ]
    assert set(layers) == set(made)
    latents, timesteps = random_inputs()
    contexts = network.project_text(random_texts(4, 4))
    network(latents, timesteps, contexts, one_text_per_item(latents), FPS, SIZE)
    assert calls == 2 * 2 * network.config.depth  # spatial and temporal blocks, self- and cross-attention


@torch.no_grad()
def test_a_host_that_casts_weights_at_use_chooses_the_compute_dtype() -> None:
    class Linear(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            assert x.dtype == torch.bfloat16 and self.weight.dtype == torch.float32
            return F.linear(x, self.weight.to(x), self.bias.to(x))

    class Conv3d(nn.Conv3d):
        def forward(self, x: Tensor) -> Tensor:
            return self._conv_forward(x, self.weight.to(x), self.bias.to(x))

    class RMSNorm(nn.RMSNorm):
        def forward(self, x: Tensor) -> Tensor:
            return F.rms_norm(x, self.normalized_shape, self.weight.to(x), self.eps)

    operations = SimpleNamespace(Linear=Linear, Conv3d=Conv3d, RMSNorm=RMSNorm, LayerNorm=nn.LayerNorm)
    casting = golden_network(operations=operations)
    casting.compute_dtype = torch.bfloat16
    converted = golden_network().to(torch.bfloat16)
    assert casting.dtype == converted.dtype == torch.bfloat16
    latents, timesteps = random_inputs()
    outs = [
        network(latents, timesteps, network.project_text(random_texts(4, 4)), one_text_per_item(latents), FPS, SIZE)
        for network in (casting, converted)
    ]
    assert relative_error(*outs) < 0.02


def test_configuration_is_read_from_shapes_as_from_json() -> None:
    config = STDiT3Config.from_dict({**MODEL["stdit3_config"], "architectures": ["STDiT3"]})
    assert STDiT3Config.from_state_dict(WEIGHTS) == config
    assert STDiT3Config.from_state_dict({key: list(value.shape) for key, value in WEIGHTS.items()}) == config
    assert STDiT3Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    unnormalised = {key: value for key, value in WEIGHTS.items() if "_norm" not in key}
    assert STDiT3Config.from_state_dict(unnormalised).num_heads == config.num_heads
    assert not STDiT3Config.from_state_dict(unnormalised).qk_norm


def test_a_foreign_configuration_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="x_embedder.proj.weight"):
        STDiT3Config.from_state_dict({"conv.weight": (4, 4)})
    with pytest.raises(InputError, match="patch_size"):
        STDiT3Config(patch_size=(2, 2, 2))
    with pytest.raises(InputError, match="num_heads"):
        STDiT3Config(hidden_size=100, num_heads=16)


def test_the_null_embedding_is_cut_to_the_prompt() -> None:
    network = golden_network()
    assert torch.equal(network.null_embedding(5), WEIGHTS["y_embedder.y_embedding"][:5])
    for count in (0, 13):
        with pytest.raises(InputError, match="1 to 12"):
            network.null_embedding(count)


@torch.no_grad()
def test_random_weights_are_reproducible_local_and_leave_no_input_unused() -> None:
    config = STDiT3Config.from_dict(MODEL["stdit3_config"])
    first, second = STDiT3(config), STDiT3(config)
    before = torch.get_rng_state()
    for network in (first, second):
        initialize_weights(network, torch.Generator().manual_seed(5))
    assert torch.equal(before, torch.get_rng_state())
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))

    latents, timesteps = random_inputs()
    contexts, texts = first.project_text(random_texts(4, 4)), one_text_per_item(latents)
    out = first(latents, timesteps, contexts, texts, FPS, SIZE)
    assert 0.05 < out.std() < 20
    changed = [
        first(latents, timesteps.flip(1), contexts, texts, FPS, SIZE),
        first(latents, timesteps, contexts, texts.flip(0), FPS, SIZE),
        first(latents, timesteps, contexts, texts, 8.0, SIZE),
        first(latents, timesteps, contexts, texts, FPS, (720, 1280)),
        first(latents.flip(2), timesteps, contexts, texts, FPS, SIZE),
    ]
    assert all(relative_error(other, out) > 1e-4 for other in changed)


def test_window_longer_than_the_positions_that_are_ready_is_evaluated_as_with_its_own() -> None:
    network = golden_network()
    latents, timesteps = random_inputs(batch=1, length=1030, height=2, width=2)
    texts = torch.zeros(1, 1030, dtype=torch.long)
    ready = network.positions((2, 2), SIZE, "cpu")
    assert len(ready.temporal) < 1030
    with torch.no_grad():
        contexts = network.project_text(random_texts(3))
        arguments = (latents, timesteps, contexts, texts, FPS, SIZE)
        out = network(*arguments, positions=ready)
        assert torch.equal(out, network(*arguments, positions=network.positions((2, 2), SIZE, "cpu", 1030)))
