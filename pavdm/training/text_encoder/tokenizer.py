"""A small tokenizer, learned from captions: their words are tokens, all else falls apart into bytes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pavdm.models.byte_tokenizer import EOS, PAD, UNKNOWN, write_settings

MASK = "<extra_id_0>"  # T5's first sentinel


def train_tokenizer(captions: Iterable[str], directory: Path, vocab_size: int = 512) -> int:
    """Learn a byte-level BPE and write it into `directory` for transformers' AutoTokenizer; EOS ends every text.

    Returns the size of the vocabulary, at most `vocab_size`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    specials = [PAD, EOS, UNKNOWN, MASK]
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, tokenizer.token_to_id(EOS))]
    )
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    write_settings(directory)
    return tokenizer.get_vocab_size()
