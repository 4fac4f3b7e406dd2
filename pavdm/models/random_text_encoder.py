"""A randomly initialised T5 encoder with its tokenizer, on disk: a stand-in where no weights are at hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from pavdm.models.text_encoder import quiet_transformers

PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"  # ids 0, 1, 2, as in T5


def random_text_encoder(
    directory: str | Path,
    *,
    d_model: int,
    num_layers: int,
    num_heads: int,
    d_ff: int,
    d_kv: int,
    seed: int,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes the files that `TextEncoder.load` wants into `directory`, which is created.

    The network is T5 v1.1's (gated GELU, embeddings shared); the vocabulary is the 256 bytes of UTF-8. Equal
    arguments give equal weights; no global random state is read or changed.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    vocab_size = _write_tokenizer(directory)

    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=vocab_size,
        d_model=d_model,
        d_kv=d_kv,
        d_ff=d_ff,
        num_layers=num_layers,
        num_heads=num_heads,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    with quiet_transformers():
        with torch.device("meta"):  # transformers' own initialisation would draw from the global generator
            model: Any = T5EncoderModel(config)
        model.to_empty(device="cpu")
        model.tie_weights()
        _initialise(model, d_kv, torch.Generator().manual_seed(seed))
        model.to(dtype).save_pretrained(str(directory))


@torch.no_grad()
def _initialise(model: torch.nn.Module, d_kv: int, generator: torch.Generator) -> None:
    """Weights under which every layer keeps the variance that it gets, as in T5's own initialisation."""
    for name, parameter in sorted(model.named_parameters()):
        if name.endswith("layer_norm.weight"):
            parameter.fill_(1.0)
            continue
        is_table = "shared" in name or "relative_attention_bias" in name
        scale = 1.0 if is_table else 1 / math.sqrt(parameter.shape[1])
        if name.endswith("SelfAttention.q.weight"):
            scale /= math.sqrt(d_kv)  # T5's attention does not divide by it
        parameter.normal_(0.0, scale, generator=generator)


def _write_tokenizer(directory: Path) -> int:
    """Byte-level, no merges, EOS appended to every text. Returns the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    specials = [PAD, EOS, UNKNOWN]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token=UNKNOWN))
    tokenizer.add_special_tokens(specials)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, vocab[EOS])])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": EOS,
        "unk_token": UNKNOWN,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return len(vocab)
