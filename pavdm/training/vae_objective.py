"""What a video VAE is trained on: reconstruction of pixels, and a little KL so that its latents stay near a Gaussian.

    loss = mean |x' - x| + weight of squares * mean (x' - x)^2 + kl_weight * KL

Both halves are trained together, through both posteriors. The published VAE was trained in stages, with perceptual and
adversarial losses: for pictures as plain as the procedural world's, these were not found to be needed.
Source: Rombach et al. (arXiv 2112.10752), appendix G; Open-Sora report 1.2 (docs/report_03.md).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pavdm.models.vae import VideoVAE

LOG_VARIANCE = (-30.0, 20.0)  # the range in which the network's answer counts, as in `VideoVAE.encode`


class VAEObjective(nn.Module):
    """Loss of a batch of clips. `vae` holds the weights to save; data-parallel wrappers wrap this module."""

    def __init__(self, vae: VideoVAE, *, square_weight: float = 4.0, kl_weight: float = 1e-4) -> None:
        super().__init__()
        self.vae = vae
        self.square_weight = square_weight
        self.kl_weight = kl_weight

    def forward(
        self, pixels: Tensor, noise: Callable[[tuple[int, ...]], Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """pixels: (B, 3, F, H, W) in [-1, 1], F at most one piece (17). noise: shape -> unit normal.

        Returns the loss and, for the log, psnr (dB, of the batch) and kl (nats per number, temporal posterior).
        """
        vae = self.vae
        images = pixels.transpose(1, 2).flatten(0, 1)  # (B*F, 3, H, W)
        z, kl_spatial = _posterior(vae.spatial_vae.module.encode(images), noise)
        z = z.unflatten(0, (len(pixels), -1)).transpose(1, 2) * vae.config.spatial_scaling_factor
        z, kl_temporal = _posterior(vae.temporal_vae.encode(z), noise)
        z = vae.temporal_vae.decode(z, pixels.shape[2]).transpose(1, 2).flatten(0, 1)
        decoded = vae.spatial_vae.module.decode(z / vae.config.spatial_scaling_factor)
        error = decoded.float() - images
        square = error.square().mean()
        loss = error.abs().mean() + self.square_weight * square + self.kl_weight * (kl_spatial + kl_temporal)
        # The range of pixels is 2, so its square is 4.
        return loss, {"psnr": 10 * torch.log10(4.0 / square.detach()), "kl": kl_temporal.detach()}


def _posterior(moments: Tensor, noise: Callable[[tuple[int, ...]], Tensor]) -> tuple[Tensor, Tensor]:
    """A draw from the Gaussian of `moments` (N, 2C, ...), and its mean KL to the unit Gaussian, per number."""
    mean, log_variance = moments.chunk(2, dim=1)
    log_variance = log_variance.clamp(*LOG_VARIANCE)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return mean + torch.exp(0.5 * log_variance) * noise(tuple(mean.shape)).to(mean), kl
