"""What a video VAE is trained on: reconstruction of pixels, and a little KL so that its latents stay near a Gaussian.

    loss = 10 * mean (x' - x)^2 + 0.2 * mean |x' - x| + kl_weight * KL
         (+ 0.1 * mean (z' - z)^2, of frames' latents) (+ still_weight * still)

The spatial half alone on single frames, the temporal one behind it, or both, through both posteriors. The published VAE
was trained in such stages, too, with perceptual and adversarial losses; pictures as plain as the procedural world's do
without. Squares lead because the colours of small shapes are large errors on few pixels.
`still` is this project's own. A piece of 17 frames is coded alone, and what is lost of it differs from piece to piece:
at every boundary the picture jumps. It asks that a latent be what its last frame would be coded to as a still picture,
and that a piece begin and end with its stills, so that two pieces meet as two pictures do. The first frame, too:
convolutions are causal, but the norms between them see the whole piece.
Source: Rombach et al. (arXiv 2112.10752), appendix G; Open-Sora report 1.2 (docs/report_03.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pavdm.models.spatial_vae import SpatialVAE
from pavdm.models.vae import VideoVAE
from pavdm.training.data.clip_list import Skipped

SQUARE_WEIGHT, ABSOLUTE_WEIGHT, LATENT_WEIGHT = 10.0, 0.2, 0.1
LOG_VARIANCE = (-30.0, 20.0)  # the range in which the network's answer counts, as in `VideoVAE.encode`
DEAD = 1e-4  # share of the liveliest channel's deviation below which a channel says nothing
NARROW = -6.0  # log variance at first: with wide posteriors a young encoder is not heard through their noise


@dataclass(frozen=True, eq=False)
class PixelBatch:
    """pixels: (B, 3, F, H, W) in [-1, 1], F at most one piece (17). shown: frames that are decoded to pixels.

    noise: unit normal for the posteriors, (B * F, C, h, w) of the frames and (B, C', ceil(F / 4), h, w) of the clips;
    the second is None if the spatial half is trained alone. skipped: what could not be read; others stand in for it.
    """

    pixels: Tensor
    shown: tuple[int, ...]
    noise: tuple[Tensor, Tensor | None]
    skipped: tuple[Skipped, ...] = ()

    def to(self, device: torch.device | str) -> PixelBatch:
        frames, clips = self.noise
        noise = frames.to(device), None if clips is None else clips.to(device)
        return PixelBatch(self.pixels.to(device), self.shown, noise, self.skipped)


class VAEObjective(nn.Module):
    """Loss of a batch of clips. `vae` holds the weights to save; data-parallel wrappers wrap this module."""

    def __init__(self, vae: VideoVAE, kl_weight: float = 1e-6, still_weight: float = 0.0) -> None:
        super().__init__()
        self.vae = vae
        self.kl_weight, self.still_weight = kl_weight, still_weight

    def forward(self, batch: PixelBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and, for the log: psnr in dB, and kl in nats per number of the last posterior."""
        vae, (noise, clip_noise) = self.vae, batch.noise
        factor = vae.config.spatial_scaling_factor
        images = batch.pixels.transpose(1, 2).flatten(0, 1)  # (B*F, 3, H, W)
        z, kl = _posterior(vae.spatial_vae.module.encode(images), noise)
        z = z.unflatten(0, (len(batch.pixels), -1)).transpose(1, 2) * factor  # (B, C, F, h, w)
        regular = kl
        decoded = z
        still = z.new_zeros(())
        if clip_noise is not None:
            moments = vae.temporal_vae.encode(z)
            drawn, kl = _posterior(moments, clip_noise)
            decoded = vae.temporal_vae.decode(drawn, z.shape[2])
            regular = regular + kl
            if self.still_weight and moments.shape[2] > 1:
                still = self._still(z, moments, decoded)
        shown = list(batch.shown)
        pixels = vae.spatial_vae.module.decode(decoded[:, :, shown].transpose(1, 2).flatten(0, 1) / factor)
        error = pixels.float() - batch.pixels[:, :, shown].transpose(1, 2).flatten(0, 1)
        square = error.square().mean()
        loss = SQUARE_WEIGHT * square + ABSOLUTE_WEIGHT * error.abs().mean() + self.kl_weight * regular
        if clip_noise is not None:  # frames that are not decoded learn by it, too
            loss = loss + LATENT_WEIGHT * (decoded - z.detach()).square().mean() + self.still_weight * still
        # The range of pixels is 2, so its square is 4.
        logs = {"psnr": 10 * torch.log10(4.0 / square.detach()), "kl": kl.detach()}
        return loss, {**logs, "still": still.detach()} if self.still_weight else logs

    def _still(self, z: Tensor, moments: Tensor, decoded: Tensor) -> Tensor:
        """How far a piece is from its stills, as shares of their variance: its latents, and its two ends decoded.

        z, decoded: spatial latents (B, C, F, h, w) before and after. moments: of the clips (B, 2C', T, h, w).
        """
        temporal, length, count = self.vae.temporal_vae, z.shape[2], moments.shape[2]
        factor = self.vae.config.temporal.factor
        last = [length - 1 - factor * (count - 1 - index) for index in range(count)]  # frame of each latent
        stills = z[:, :, last].transpose(1, 2).flatten(0, 1)[:, :, None]  # (B * T, C, 1, h, w)
        means = temporal.encode(stills).chunk(2, dim=1)[0]
        means = means[:, :, 0].unflatten(0, (len(z), -1)).transpose(1, 2)  # (B, C', T, h, w)
        unlike = _unlike(moments.chunk(2, dim=1)[0], means)
        for end in (0, -1):
            unlike = unlike + _unlike(decoded[:, :, [last[end]]], temporal.decode(means[:, :, [end]], 1))
        return unlike


def _unlike(x: Tensor, still: Tensor) -> Tensor:
    """Mean square of the difference over the variance of `still`, both (B, ...), of each item; their mean."""
    return ((x - still).flatten(1).square().mean(1) / still.flatten(1).var(1)).mean()


def _posterior(moments: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """A draw from the Gaussian of `moments` (N, 2C, ...), and its mean KL to the unit Gaussian, per number."""
    mean, log_variance = moments.chunk(2, dim=1)
    log_variance = log_variance.clamp(*LOG_VARIANCE)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return mean + torch.exp(0.5 * log_variance) * noise.to(mean), kl


@torch.no_grad()
def prepare_for_training(vae: VideoVAE) -> None:
    """From random weights to ones that learn fast: residual branches begin at zero and posteriors narrow.

    What the temporal half reads and writes outside its branches begins near the place itself: several convolutions with
    random weights all around, one behind the other, are a blur that it has to learn to undo.
    """
    for name, weight in vae.named_parameters():
        in_spatial_branch = "resnets" in name and name.endswith("conv2.weight")
        in_temporal_branch = "res_blocks" in name and name.endswith("conv2.conv.weight")
        if in_spatial_branch or in_temporal_branch or name.endswith("to_out.0.weight"):
            weight.zero_()
    for name, weight in vae.temporal_vae.named_parameters():
        if weight.ndim == 5 and weight.shape[-1] == 3 and "res_blocks" not in name:
            middle = 3 * weight[..., 1, 1]  # as much as there was
            weight.mul_(0.1)
            weight[..., 1, 1] = middle
    spatial: SpatialVAE = vae.spatial_vae.module
    for layer in (spatial.quant_conv, vae.temporal_vae.quant_conv.conv):
        half = layer.weight.shape[0] // 2
        layer.weight[half:].zero_()
        layer.bias[half:].fill_(NARROW)


@torch.no_grad()
def normalise(vae: VideoVAE, clips: Iterable[Tensor]) -> VideoVAE:
    """A VAE with the same weights, whose latents have mean 0 and deviation 1 per channel over `clips` (B, 3, F, H, W)
    in [-1, 1]. A channel that is the same everywhere keeps its scale: divided by, nothing would be left but infinity.
    """
    device = next(vae.parameters()).device
    coded = (vae.encode(pixels.to(device)) * vae.scale + vae.shift for pixels in clips)  # as the network gives them
    flat = torch.cat([latents.transpose(0, 1).flatten(1) for latents in coded], dim=1)
    shift, scale = flat.mean(dim=1), flat.std(dim=1)
    scale = scale.where(scale > DEAD * scale.max(), vae.scale.flatten())
    config = replace(vae.config, shift=tuple(shift.tolist()), scale=tuple(scale.tolist()))
    result = VideoVAE(config, device="meta")
    state = {**vae.state_dict(), "shift": shift.view_as(vae.shift), "scale": scale.view_as(vae.scale)}
    result.load_state_dict(state, assign=True)
    return result
