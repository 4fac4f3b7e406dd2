"""The linear preview of latents."""

from __future__ import annotations

import pytest
import torch

from pavdm.errors import InputError
from pavdm.models.latent_preview import LatentPreview, colour_fields, fit_preview


@pytest.mark.parametrize("channels", [3, 4, 8])
def test_the_map_that_made_the_colours_is_found_again(channels: int) -> None:
    draw = torch.Generator().manual_seed(channels)
    latents = torch.randn(2, channels, 5, 6, 8, generator=draw)
    factors, bias = torch.randn(channels, 3, generator=draw), torch.randn(3, generator=draw)
    colours = (latents.movedim(1, -1) @ factors + bias).movedim(-1, 1)
    fit = fit_preview(latents, colours.repeat_interleave(8, 3).repeat_interleave(8, 4))
    torch.testing.assert_close(torch.tensor(fit.factors), factors, atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.tensor(fit.bias), bias, atol=1e-4, rtol=0)
    torch.testing.assert_close(fit.pictures(latents), colours, atol=1e-3, rtol=0)


def test_a_config_gives_back_what_was_written_to_it() -> None:
    preview = LatentPreview(((0.1, -0.2, 0.3),) * 5, (0.0, 0.5, -0.5))
    assert LatentPreview.from_config({"model_type": "x", **preview.to_config()}, 5) == preview
    assert LatentPreview.from_config({"model_type": "x"}, 5) is None


@pytest.mark.parametrize(
    "factors", [[[0, 0, 0]] * 4, "red", [[0, 0]] * 5, [[0, 0, float("nan")]] * 5, [[0, 0, "1"]] * 5]
)
def test_a_config_that_does_not_fit_is_refused(factors: object) -> None:
    with pytest.raises(InputError, match="latent_rgb_factors"):
        LatentPreview.from_config({"latent_rgb_factors": factors}, 5)


def test_made_up_frames_hold_every_colour_and_are_always_the_same() -> None:
    frames = colour_fields(17, (128, 128))
    assert frames.shape == (1, 3, 17, 128, 128) and frames.abs().max() <= 1
    assert torch.equal(frames, colour_fields(17, (128, 128)))
    assert torch.linalg.matrix_rank(frames[0, :, 0].flatten(1).cov(), atol=0.01) == 3
