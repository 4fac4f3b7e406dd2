"""Training of a small T5 encoder with a tokenizer of its own: captions -> left-out words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from pavdm.models.text_encoder import quiet_transformers
from pavdm.new_model import distribution
from pavdm.training.chance import generator_for, integer
from pavdm.training.task import Share
from pavdm.training.text_encoder.objective import MaskedTextObjective, masked_tokens
from pavdm.training.text_encoder.tokenizer import MASK, train_tokenizer

if TYPE_CHECKING:
    from transformers import T5Config


class MaskedCaptions(Dataset[dict[str, Tensor]]):
    """Item m: the batch of micro-step m; captions and their masked words are drawn anew for each example."""

    def __init__(
        self, tokens: Sequence[Sequence[int]], mask_token: int, pad_token: int, batch_size: int, share: Share, seed: int
    ) -> None:
        self._tokens, self._mask_token, self._pad_token = tokens, mask_token, pad_token
        self._batch_size, self._share, self._seed = batch_size, share, seed

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generators = [
            generator_for(self._seed, "caption", number) for number in self._share.examples(index, self._batch_size)
        ]
        chosen = [integer(len(self._tokens), generator) for generator in generators]
        return masked_tokens([self._tokens[i] for i in chosen], self._mask_token, self._pad_token, generators)


class TextTask:
    """The task (see `pavdm.training.task.Task`). Its tokenizer is learned from `captions` when it is made.

    captions: as the encoder will read them, cleaned and with their scores, none of them empty. config: of
    `transformers.T5Config`, without the vocabulary, which is learned, of at most `vocab_size` tokens. scratch: a folder
    for the tokenizer's files.
    """

    def __init__(
        self,
        captions: Sequence[str],
        config: Mapping[str, Any],
        *,
        scratch: Path,
        vocab_size: int,
        batch_size: int,
        seed: int = 0,
    ) -> None:
        self._vocab_size = train_tokenizer(captions, scratch, vocab_size)
        self._tokenizer_files = {path.name: path.read_bytes() for path in sorted(scratch.iterdir())}
        self._batch_size, self._seed = batch_size, seed
        self._digest = hashlib.sha256(json.dumps(list(captions)).encode()).hexdigest()[:16]
        with quiet_transformers():
            from transformers import AutoTokenizer, T5EncoderModel

            tokenizer: Any = AutoTokenizer.from_pretrained(str(scratch), local_files_only=True)
            self._config = _t5_config(config, self._vocab_size)
            self._shape = dict(config)
            encoder: Any = T5EncoderModel(self._config)
        _initialise(encoder, torch.Generator().manual_seed(seed))
        self.network: nn.Module = encoder
        self.objective = MaskedTextObjective(encoder)
        self._tokens: list[list[int]] = [tokenizer(caption)["input_ids"] for caption in captions]
        self._mask_token: int = tokenizer.convert_tokens_to_ids(MASK)
        self._pad_token: int = tokenizer.pad_token_id

    def examples(self, share: Share) -> Dataset[dict[str, Tensor]]:
        return MaskedCaptions(self._tokens, self._mask_token, self._pad_token, self._batch_size, share, self._seed)

    def settings(self) -> dict[str, Any]:
        return {
            "what": "text-encoder",
            "seed": self._seed,
            "batch size": self._batch_size,
            "vocabulary": self._vocab_size,
            **self._shape,
            "data": {"captions": len(self._tokens), "digest": self._digest},
        }

    def blocks(self) -> Iterable[nn.Module]:
        return self.network.encoder.block  # type: ignore[return-value,union-attr]

    def save(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        with quiet_transformers():
            from transformers import T5EncoderModel

            with torch.device("meta"):
                encoder: Any = T5EncoderModel(self._config)
            whole = {"encoder.embed_tokens.weight": weights["shared.weight"], **weights}  # T5 has one table twice
            encoder.load_state_dict(whole, assign=True)
            encoder.tie_weights()
            encoder.save_pretrained(str(directory))
        for name, content in self._tokenizer_files.items():
            (directory / name).write_bytes(content)

    def sample(self, directory: Path, step: int, weights: Mapping[str, Tensor]) -> None:
        """There is nothing to look at: the log has the share of words that were told right."""


def _t5_config(config: Mapping[str, Any], vocab_size: int) -> T5Config:
    from transformers import T5Config

    return T5Config(
        **config,
        vocab_size=vocab_size,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=64,
    )


@torch.no_grad()
def _initialise(encoder: nn.Module, generator: torch.Generator) -> None:
    """Weights drawn from a local generator, under which every layer about keeps the variance that it gets."""
    for name, weight in sorted(encoder.named_parameters()):
        mean, deviation = distribution(name, tuple(weight.shape), encoder.config.d_kv)  # type: ignore[union-attr,arg-type]
        if deviation:
            weight.normal_(0.0, deviation, generator=generator)
        else:
            weight.fill_(mean)
