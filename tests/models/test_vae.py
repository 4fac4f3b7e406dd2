"""The video VAE against the published implementation's outputs (tests/golden/vae*) and known numbers."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from pavdm.errors import InputError
from pavdm.models.spatial_vae import rename_legacy_keys
from pavdm.models.vae import VAEConfig, VideoVAE, initialize_weights, latent_frames, pixel_frames, tiled

GOLDEN = Path(__file__).parents[1] / "golden"
SETTINGS: dict[str, Any] = json.loads((GOLDEN / "vae.json").read_text())
ENCODE = [case["name"] for case in SETTINGS["cases"] if case["name"].startswith("encode")]
DECODE = [(case["name"], case["frames"]) for case in SETTINGS["cases"] if case["name"].startswith("decode")]


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return load_file(GOLDEN / "vae_weights.safetensors")


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "vae.safetensors")


@pytest.fixture
def vae(weights: dict[str, Tensor]) -> Iterator[VideoVAE]:
    model = VideoVAE(VAEConfig.from_dict(SETTINGS))
    model.load_state_dict(weights)
    with torch.no_grad():
        yield model


def recorded_noise(golden: dict[str, Tensor], case: str) -> Callable[[tuple[int, ...]], Tensor]:
    draws = iter(sorted(key for key in golden if key.startswith(f"{case}.noise.")))

    def noise(shape: tuple[int, ...]) -> Tensor:
        draw = golden[next(draws)]
        assert tuple(draw.shape) == shape
        return draw

    return noise


def relative_error(out: Tensor, reference: Tensor) -> float:
    assert out.shape == reference.shape and out.dtype == torch.float32
    return ((out - reference).norm() / reference.norm()).item()


def random_latents(num_latents: int, height: int = 2, width: int = 3, batch: int = 1) -> Tensor:
    return torch.randn(batch, 4, num_latents, height, width, generator=torch.Generator().manual_seed(num_latents))


def smooth_video(num_frames: int, height: int, width: int) -> Tensor:
    coarse = torch.randn(1, 3, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, (num_frames, height, width), mode="trilinear", align_corners=True).clamp(-1, 1)


def waves(num_frames: int, height: int, width: int) -> Tensor:
    """Smooth video that looks alike everywhere: waves of 32 pixels, another slope in each channel."""
    t, y, x = torch.meshgrid(*(torch.arange(n) for n in (num_frames, height, width)), indexing="ij")
    phases = torch.stack([x / 32 + y / (32 * slope) + t / 17 for slope in (1, 2, 3)])
    return 0.7 * torch.sin(2 * torch.pi * phases)[None]


class TestGolden:
    @pytest.mark.parametrize("case", ENCODE)
    def test_sampled_latents_are_the_published_ones(self, vae: VideoVAE, golden: dict[str, Tensor], case: str) -> None:
        out = vae.encode(golden[f"{case}.pixels"], recorded_noise(golden, case))
        assert relative_error(out, golden[f"{case}.latents"]) < 1e-5

    @pytest.mark.parametrize("case", ENCODE)
    def test_mode_latents_are_the_published_ones(self, vae: VideoVAE, golden: dict[str, Tensor], case: str) -> None:
        assert relative_error(vae.encode(golden[f"{case}.pixels"]), golden[f"{case}.latents_mode"]) < 1e-5

    @pytest.mark.parametrize(("case", "num_frames"), DECODE)
    def test_decoded_pixels_are_the_published_ones(
        self, vae: VideoVAE, golden: dict[str, Tensor], case: str, num_frames: int
    ) -> None:
        assert relative_error(vae.decode(golden[f"{case}.latents"], num_frames), golden[f"{case}.pixels"]) < 1e-5

    @pytest.mark.parametrize("micro_batch", [1, 7])
    def test_micro_batch_changes_memory_only(self, vae: VideoVAE, golden: dict[str, Tensor], micro_batch: int) -> None:
        vae.micro_batch = micro_batch
        out = vae.encode(golden["encode_20.pixels"], recorded_noise(golden, "encode_20"))
        assert relative_error(out, golden["encode_20.latents"]) < 1e-5
        assert relative_error(vae.decode(golden["decode_21.latents"], 21), golden["decode_21.pixels"]) < 1e-5

    def test_bfloat16_weights_stay_close_and_give_float32(self, vae: VideoVAE, golden: dict[str, Tensor]) -> None:
        half = VideoVAE(vae.config, dtype=torch.bfloat16)
        half.load_state_dict(vae.state_dict())
        assert half.dtype == torch.bfloat16 and half.scale.dtype == torch.float32
        assert relative_error(half.encode(golden["encode_17.pixels"]), golden["encode_17.latents_mode"]) < 0.05
        assert relative_error(half.decode(golden["decode_17.latents"]), golden["decode_17.pixels"]) < 0.05


class TestFrames:
    @pytest.mark.parametrize(
        ("num_frames", "num_latents"),
        [
            (1, 1),
            (5, 2),
            (13, 4),
            (16, 4),
            (17, 5),
            (18, 6),
            (20, 6),
            (34, 10),
            (51, 15),
            (119, 35),
            (1445, 425),
        ],
    )
    def test_latent_frames(self, num_frames: int, num_latents: int) -> None:
        assert latent_frames(num_frames) == num_latents

    @pytest.mark.parametrize(
        ("num_latents", "num_frames"),
        [(1, 4), (4, 16), (5, 17), (6, 21), (10, 34), (11, 38), (15, 51), (35, 119)],
    )
    def test_pixel_frames(self, num_latents: int, num_frames: int) -> None:
        assert pixel_frames(num_latents) == num_frames

    @pytest.mark.parametrize("num_frames", [1, 2, 5, 13, 16, 17, 18, 20, 34])
    def test_a_round_trip_keeps_every_frame(self, vae: VideoVAE, num_frames: int) -> None:
        latents = vae.encode(smooth_video(num_frames, 16, 16))
        assert latents.shape == (1, 4, latent_frames(num_frames), 2, 2)
        assert vae.decode(latents, num_frames).shape == (1, 3, num_frames, 16, 16)

    def test_sizes_off_the_grid_are_floored_as_the_convolutions_do(self, vae: VideoVAE) -> None:
        latents = vae.encode(smooth_video(1, 240, 426))
        assert latents.shape == (1, 4, 1, 30, 53)
        assert vae.decode(latents, 1).shape == (1, 3, 1, 240, 424)

    def test_pieces_of_17_frames_do_not_see_each_other(self, vae: VideoVAE) -> None:
        video = smooth_video(34, 16, 16)
        assert relative_error(vae.encode(video[:, :, 17:]), vae.encode(video)[:, :, 5:]) < 1e-5

    def test_batch_entries_do_not_mix(self, vae: VideoVAE) -> None:
        video = torch.cat([smooth_video(5, 16, 16), -smooth_video(5, 16, 16)])
        latents = vae.encode(video)
        assert relative_error(latents[1:], vae.encode(video[1:])) < 1e-5
        assert relative_error(vae.decode(latents)[1:], vae.decode(latents[1:])) < 1e-5

    @pytest.mark.parametrize("num_frames", [16, 18, 33])
    def test_a_frame_count_that_does_not_fit_the_latents_is_refused(self, vae: VideoVAE, num_frames: int) -> None:
        with pytest.raises(InputError, match=f"for {num_frames} frames, got 5"):
            vae.decode(random_latents(5), num_frames)


class TestPieces:
    @pytest.mark.parametrize("length", [1, 4, 5, 6, 11, 15])
    @pytest.mark.parametrize("cut", [1, 2, 5, 7])
    def test_any_chunk_lengths_decode_to_the_whole(self, vae: VideoVAE, length: int, cut: int) -> None:
        latents = random_latents(length)
        # The whole, as one call of the networks per 17-frame piece, without the generator.
        whole = torch.cat([vae._decode_piece(part, pixel_frames(part.shape[2])) for part in latents.split(5, dim=2)], 2)
        pieces = list(vae.decode_pieces(latents.split(cut, dim=2)))
        assert [piece.shape[2] for piece in pieces[:-1]] == [17] * (len(pieces) - 1)
        assert relative_error(torch.cat(pieces, dim=2), whole) < 1e-5
        assert relative_error(vae.decode(latents), whole) < 1e-5

    def test_the_last_piece_is_cropped_to_the_frame_count(self, vae: VideoVAE, golden: dict[str, Tensor]) -> None:
        latents = golden["decode_21.latents"]
        pieces = list(vae.decode_pieces(latents.split(2, dim=2), num_frames=19))
        assert [piece.shape[2] for piece in pieces] == [17, 2]
        assert relative_error(pieces[1], golden["decode_21.pixels"][:, :, 19:]) < 1e-5

    def test_the_first_piece_comes_before_the_second_chunk_is_asked_for(self, vae: VideoVAE) -> None:
        asked = 0

        def chunks() -> Iterator[Tensor]:
            nonlocal asked
            for _ in range(3):
                asked += 1
                yield random_latents(5)

        pieces = vae.decode_pieces(chunks())
        for expected in (1, 2, 3):
            assert next(pieces).shape[2] == 17
            assert asked == expected
        assert next(pieces, None) is None

    def test_live_tensors_do_not_grow_with_the_length(self, vae: VideoVAE) -> None:
        live = []
        for piece in vae.decode_pieces(random_latents(3) for _ in range(20)):
            del piece
            live.append(sum(x.numel() for x in gc.get_objects() if type(x) is Tensor))
        assert len(live) == 12
        assert max(live[6:]) <= max(live[:3])

    @pytest.mark.parametrize("lengths", [(5, 4), (5, 5, 1)])
    def test_too_few_or_too_many_latents_are_refused(self, vae: VideoVAE, lengths: tuple[int, ...]) -> None:
        with pytest.raises(InputError, match="expected 10 latent frames for 34 frames"):
            list(vae.decode_pieces((random_latents(length) for length in lengths), num_frames=34))

    def test_gradients_flow_and_grad_mode_does_not_change_the_numbers(self, vae: VideoVAE) -> None:
        latents = random_latents(5)
        plain = vae.decode(latents)
        with torch.enable_grad():
            leaf = latents.clone().requires_grad_()
            tracked = vae.decode(leaf)
            tracked.square().mean().backward()
        assert torch.equal(tracked.detach(), plain)
        assert leaf.grad is not None and leaf.grad.abs().sum() > 0


class TestTiles:
    def test_an_image_that_fits_into_one_tile_is_exact(self, vae: VideoVAE) -> None:
        video, latents = smooth_video(5, 48, 64), random_latents(5, 6, 8)
        encoded, decoded = vae.encode(video), vae.decode(latents)
        vae.tile = 8
        assert torch.equal(vae.encode(video), encoded)
        assert torch.equal(vae.decode(latents), decoded)

    def test_many_tiles_stay_close_and_come_closer_with_size(self, vae: VideoVAE) -> None:
        video, latents = waves(5, 192, 256), random_latents(2, 24, 32)
        encoded, decoded = vae.encode(video), vae.decode(latents)
        errors = []
        for vae.tile in (8, 20):
            errors.append((relative_error(vae.encode(video), encoded), relative_error(vae.decode(latents), decoded)))
        # Random weights react far more strongly than trained ones to what a tile leaves out; unrelated: 1.4.
        assert errors[1][0] < 0.3 and errors[1][1] < 0.2
        assert errors[1][0] < errors[0][0] and errors[1][1] < errors[0][1]

    @pytest.mark.parametrize("size", [(9, 8), (8, 23), (31, 50), (100, 7)])
    def test_blending_loses_and_doubles_nothing(self, size: tuple[int, int]) -> None:
        x = random_latents(1, *size)[:, :, 0]

        def enlarge(part: Tensor) -> Tensor:
            assert max(part.shape[-2:]) <= 8
            return part.repeat_interleave(8, -1).repeat_interleave(8, -2)

        whole = x.repeat_interleave(8, -1).repeat_interleave(8, -2)
        assert torch.allclose(tiled(enlarge, x, 8, per_latent_out=8), whole, atol=1e-6)

    def test_pixels_beyond_the_last_latent_go_to_the_last_tile(self) -> None:
        image = torch.randn(1, 3, 240, 426, generator=torch.Generator().manual_seed(0))
        widths = []

        def shrink(part: Tensor) -> Tensor:
            widths.append(part.shape[-1])
            return F.avg_pool2d(part, 8)

        assert torch.allclose(tiled(shrink, image, 16, per_latent_in=8), F.avg_pool2d(image, 8), atol=1e-6)
        assert set(widths) == {128, 130}

    def test_a_tile_too_small_to_overlap_is_refused(self, vae: VideoVAE) -> None:
        vae.tile = 3
        with pytest.raises(InputError, match="at least 4"):
            vae.decode(random_latents(1))


class TestWeights:
    def test_attention_of_old_diffusers_checkpoints_is_renamed(self, weights: dict[str, Tensor]) -> None:
        old = {}
        for key, value in weights.items():
            for name, legacy in (
                ("to_q", "query"),
                ("to_k", "key"),
                ("to_v", "value"),
                ("to_out.0", "proj_attn"),
            ):
                key = key.replace(f"attentions.0.{name}.", f"attentions.0.{legacy}.")
            old[key] = value
        assert set(old) != set(weights)
        assert set(rename_legacy_keys(old)) == set(weights)
        prefix = "spatial_vae.module."
        bare = {key.removeprefix(prefix): value for key, value in old.items() if key.startswith(prefix)}
        assert {prefix + key for key in rename_legacy_keys(bare)} <= set(weights)

    def test_every_weight_comes_from_the_operations_namespace(self) -> None:
        names = ("Conv2d", "Conv3d", "GroupNorm", "Linear")
        classes = {name: type(name, (getattr(nn, name),), {}) for name in names}
        vae = VideoVAE(VAEConfig.from_dict(SETTINGS), SimpleNamespace(**classes), dtype=torch.float16)
        owners = [module for module in vae.modules() if list(module.parameters(recurse=False))]
        assert {type(module) for module in owners} == set(classes.values())
        assert {parameter.dtype for parameter in vae.parameters()} == {torch.float16}

    def test_random_weights_follow_the_seed_alone_and_keep_a_sensible_range(self) -> None:
        config = VAEConfig.from_dict(SETTINGS)
        with torch.device("meta"):
            empty = VideoVAE(config)
        vae, twin = empty.to_empty(device="cpu"), VideoVAE(config)
        global_state = torch.get_rng_state()
        for model in (vae, twin):
            initialize_weights(model, torch.Generator().manual_seed(3))
        assert torch.equal(torch.get_rng_state(), global_state)
        for (key, value), other in zip(vae.state_dict().items(), twin.state_dict().values(), strict=True):
            assert torch.equal(value, other), key
        with torch.no_grad():
            latents = vae.encode(smooth_video(17, 32, 32))
            pixels = vae.decode(random_latents(5, 8, 8))
        assert 0.03 < latents.std() < 3.0
        assert 0.2 < pixels.std() < 2.0
