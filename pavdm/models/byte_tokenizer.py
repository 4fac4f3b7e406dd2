"""A tokenizer that needs no training: every byte of UTF-8 is a token. For the text encoders that `new_model` makes."""

from __future__ import annotations

import json
from pathlib import Path

PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"  # ids 0, 1, 2, as in T5


def write_tokenizer(directory: Path) -> int:
    """Write it into `directory` for transformers' AutoTokenizer; EOS ends every text. Returns the vocabulary's size."""
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
    write_settings(directory)
    return len(vocab)


def write_settings(directory: Path) -> None:
    """Write tokenizer_config.json, from which AutoTokenizer knows what the tokens of tokenizer.json are for."""
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": EOS,
        "unk_token": UNKNOWN,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
