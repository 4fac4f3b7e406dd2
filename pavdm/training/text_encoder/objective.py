"""What a small T5 encoder is trained on: words left out of captions, to be told from the others.

A quarter of the tokens is replaced by T5's first sentinel and predicted by the transposed table of embeddings. This is
T5's denoising without a decoder, as BERT has it (Raffel et al., arXiv 1910.10683, section 3.1.4): the decoder would
not be used afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASKED_SHARE = 0.25
IGNORED = -100  # a target that cross_entropy does not count


def masked_tokens(
    tokens: Sequence[Sequence[int]], mask_token: int, pad_token: int, generators: Sequence[torch.Generator]
) -> dict[str, Tensor]:
    """Captions as token numbers, the last one end-of-text -> input_ids, attention_mask and targets, (B, longest).

    generators: one for each caption. End-of-text is never masked; each caption has at least one masked token, unless it
    is empty.
    """
    length = max(map(len, tokens))
    ids = torch.full((len(tokens), length), pad_token)
    real = torch.zeros(len(tokens), length, dtype=torch.bool)
    draws = torch.full(ids.shape, 2.0)
    for row, (caption, generator) in enumerate(zip(tokens, generators, strict=True)):
        ids[row, : len(caption)] = torch.tensor(caption)
        real[row, : len(caption) - 1] = True
        draws[row, : len(caption) - 1] = torch.rand(len(caption) - 1, generator=generator)
    masked = (draws < MASKED_SHARE) | (real & (draws == draws.min(dim=1, keepdim=True).values))
    attention = real | (ids != pad_token)
    return {
        "input_ids": ids.masked_fill(masked, mask_token),
        "attention_mask": attention.long(),
        "targets": ids.masked_fill(~masked, IGNORED),
    }


class MaskedTextObjective(nn.Module):
    """Cross-entropy (nats per masked token) of a `transformers.T5EncoderModel`, which holds the weights to save.

    The mean of the captions' own means, so that a step is the same however its captions are divided into batches.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """A batch of `masked_tokens` -> the loss and, for the log, the share of masked tokens told right."""
        hidden = self.encoder(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state  # (B, L, d_model)
        table = self.encoder.get_input_embeddings().weight  # (vocabulary, d_model)
        counted = batch["targets"] != IGNORED
        logits = hidden[counted] @ table.T * hidden.shape[-1] ** -0.5
        targets = batch["targets"][counted]
        masked = counted.sum(dim=1)
        share = (1.0 / masked.clamp(min=1))[:, None].expand_as(counted)[counted]  # of each token in its caption's mean
        right = (logits.argmax(dim=1) == targets).float()
        loss = (F.cross_entropy(logits.float(), targets, reduction="none") * share).sum() / len(masked)
        return loss, {"accuracy": ((right * share).sum() / len(masked)).detach()}
