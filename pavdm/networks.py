"""The networks of one run or many: each loaded when it is first needed, and kept.

The text encoder, by far the largest, is the exception: it is there only while texts are encoded, and what it made of
them is kept. A batch has all of its texts encoded at once, before the other networks are loaded.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterable
from functools import cached_property

from torch import Tensor

from pavdm.errors import InputError
from pavdm.models.attention import best_attention
from pavdm.models.checkpoint import load_stdit3, load_vae, stdit3_config
from pavdm.models.files import ModelFiles
from pavdm.models.stdit3 import STDiT3
from pavdm.models.text_encoder import TextEncoder
from pavdm.models.vae import VideoVAE
from pavdm.models.weights import Weights, fingerprint
from pavdm.settings import Precision

logger = logging.getLogger(__name__)


class Networks:
    """What `files` hold, as `precision` asks. All of it raises InputError, naming the file, for what cannot be used."""

    def __init__(self, files: ModelFiles, precision: Precision) -> None:
        self.files = files
        self.precision = precision
        self._embeddings: dict[str, Tensor] = {}

    @cached_property
    def fingerprints(self) -> dict[str, str | None]:
        """What identifies each network, by the name under which a state holds it."""
        files = self.files
        return {
            "model": fingerprint(files.stdit)[:16],
            "vae": fingerprint(files.vae)[:16],
            "spatial vae": None if files.spatial_vae is None else fingerprint(files.spatial_vae)[:16],
            "text encoder": fingerprint(files.text_encoder)[:16],
        }

    @cached_property
    def vae(self) -> VideoVAE:
        vae = load_vae(self.files.vae, self.precision.device, self.precision.vae_dtype, self.files.spatial_vae)
        vae.tile = self.precision.tile
        return vae

    @cached_property
    def stdit(self) -> STDiT3:
        name, attention = best_attention(self.precision.device, self.precision.dtype)
        logger.info("attention: %s", name)
        return load_stdit3(self.files.stdit, self.precision.device, self.precision.dtype, attention=attention)

    def encode(self, texts: Iterable[str]) -> None:
        """Encode those of `texts` that are new. On the CPU, about 0.6 MB are kept of 70 tokens of T5-XXL in bf16."""
        new = [text for text in dict.fromkeys(texts) if text not in self._embeddings]
        if not new:
            return
        files, precision = self.files, self.precision
        config = stdit3_config(Weights(files.stdit))
        encoder = TextEncoder.load(files.text_encoder, precision.device, precision.text_dtype, config.model_max_length)
        if encoder.d_model != config.caption_channels:
            raise InputError(
                f"the STDiT3 in {files.stdit} reads text of width {config.caption_channels}, but the text encoder in "
                f"{files.text_encoder} gives width {encoder.d_model}: they do not belong together"
            )
        for text, embedding in zip(new, encoder.encode(new), strict=True):
            self._embeddings[text] = embedding.to(precision.dtype)
        del encoder
        gc.collect()

    def embeddings(self, texts: Iterable[str]) -> dict[str, Tensor]:
        """Text -> its features (tokens, caption_channels) on the device, for `GuidedVelocity`."""
        texts = list(texts)
        self.encode(texts)
        return {text: self._embeddings[text].to(self.precision.device) for text in texts}
