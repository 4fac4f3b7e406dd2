from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pavdm.errors import InputError
from pavdm.models.byte_tokenizer import write_tokenizer
from pavdm.models.text_encoder import TextEncoder

SIZES: dict[str, Any] = {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 64, "d_kv": 8, "vocab_size": 259}
TEXTS = ["a lighthouse in the rain", "", "café — 猫", "waves, slow motion. aesthetic score: 6.5."]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 v1.1 encoder as transformers itself makes and writes it, with lively weights."""
    from transformers import T5Config, T5EncoderModel

    directory = tmp_path_factory.mktemp("t5")
    model = T5EncoderModel(T5Config(**SIZES, feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if not name.endswith("layer_norm.weight"):
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
    model.save_pretrained(directory)
    write_tokenizer(directory)
    return directory


@pytest.fixture
def directory(published: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(published, tmp_path / "t5"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def _load(directory: Path, **options: Any) -> TextEncoder:
    return TextEncoder.load(directory, "cpu", options.pop("dtype", torch.float32), **options)


def _edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_unpadded_encoding_equals_the_published_padding_under_a_mask(published: Path) -> None:
    from transformers import AutoTokenizer, T5EncoderModel

    tokenizer = AutoTokenizer.from_pretrained(published)
    batch = tokenizer(TEXTS, max_length=64, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        padded = T5EncoderModel.from_pretrained(published).eval()(**batch).last_hidden_state  # (4, 64, 32)
    for ours, theirs, mask in zip(_load(published).encode(TEXTS), padded, batch["attention_mask"], strict=True):
        assert ours.shape == (int(mask.sum()), SIZES["d_model"])
        torch.testing.assert_close(ours, theirs[mask.bool()], rtol=0, atol=1e-5)


def test_a_text_has_the_same_numbers_whatever_is_encoded_with_it(published: Path) -> None:
    encoder = _load(published)
    for text, together in zip(TEXTS, encoder.encode(TEXTS), strict=True):
        assert torch.equal(encoder.encode([text])[0], together)


def test_the_network_is_no_constant_of_its_input(published: Path) -> None:
    cat, dog = _load(published).encode(["a cat", "a dog"])
    assert (cat[:2] - dog[:2]).abs().max() > 1e-3  # the equal tokens "a " attend to what follows


def test_a_long_text_keeps_its_end_token_and_the_warning_quotes_what_was_cut(
    published: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = _load(published, max_length=13)
    with caplog.at_level(logging.WARNING, "pavdm.models.text_encoder"):
        (embedding,) = encoder.encode(["a lighthouse in the rain"])
    assert embedding.shape == (13, SIZES["d_model"])
    assert " in the rain" in caplog.text and "lighthouse in" not in caplog.text
    assert "25 tokens" in caplog.text and "reads 13" in caplog.text
    assert torch.equal(embedding, encoder.encode(["a lighthouse"])[0])  # 12 letters and the end


@pytest.mark.parametrize("length", [12, 13, 14])
def test_texts_are_cut_as_the_tokenizer_itself_cuts_them(published: Path, length: int) -> None:
    encoder = _load(published, max_length=length)
    for text in ("a lighthouse", "a lighthouse in the rain"):
        expected = encoder.tokenizer(text, truncation=True, max_length=length)["input_ids"]
        assert encoder._tokenize(text) == expected


def test_a_text_of_just_the_limit_is_not_reported_as_cut(published: Path, caplog: pytest.LogCaptureFixture) -> None:
    _load(published, max_length=13).encode(["a lighthouse"])
    assert not caplog.records


def test_loading_asks_no_network_and_leaves_the_terminal_alone(
    published: Path, no_network: None, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    encoder = _load(published)
    assert (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()) == before
    assert encoder.d_model == 32
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_give_nearly_the_same_fp32_vectors(published: Path, dtype: torch.dtype) -> None:
    encoder = _load(published, dtype=dtype)
    assert encoder.model.shared.weight.dtype == dtype
    for half, full in zip(encoder.encode(TEXTS), _load(published).encode(TEXTS), strict=True):
        assert half.dtype == torch.float32 and half.device.type == "cpu"
        assert (half - full).norm() / full.norm() < 0.03


def test_embeddings_can_go_into_a_training_graph(published: Path) -> None:
    (embedding,) = _load(published).encode(["a cat"])
    scale = torch.ones((), requires_grad=True)
    (embedding * scale).square().sum().backward()
    assert scale.grad is not None and not embedding.requires_grad


def test_the_random_tokenizer_loses_no_character(published: Path) -> None:
    tokenizer = _load(published).tokenizer
    text = "Déjà vu, 猫 😀 .\n\ta  b"
    tokens = tokenizer(text)["input_ids"]
    assert len(tokens) == len(text.encode()) + 1 and tokens[-1] == 1
    assert tokenizer.decode(tokens[:-1]) == text


def _write_shards(directory: Path, *, suffix: str) -> None:
    """The single file as two shards with an index."""
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    weight_map = {}
    for number, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2]), start=1):
        shard = f"{stem}-{number:05d}-of-00002.{suffix}"
        part = {name: weights[name] for name in names}
        if suffix == "safetensors":
            save_file(part, directory / shard, metadata={"format": "pt"})
        else:
            torch.save(part, directory / shard)
        weight_map.update(dict.fromkeys(names, shard))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_sharded_weights_load_like_the_single_file(published: Path, directory: Path, suffix: str) -> None:
    _write_shards(directory, suffix=suffix)
    assert torch.equal(_load(directory).encode(["a cat"])[0], _load(published).encode(["a cat"])[0])


def test_a_single_file_may_have_any_name_and_two_leave_the_choice_open(published: Path, directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "small-t5.safetensors")
    assert torch.equal(_load(directory).encode(["a cat"])[0], _load(published).encode(["a cat"])[0])
    shutil.copy(directory / "small-t5.safetensors", directory / "another.safetensors")
    with pytest.raises(InputError, match="no weights"):
        _load(directory)


def test_of_a_whole_t5_only_the_encoder_is_taken(published: Path, directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    weights["lm_head.weight"] = weights["shared.weight"].clone()
    weights["decoder.final_layer_norm.weight"] = torch.ones(32)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    _edit_config(directory, is_encoder_decoder=True)
    assert torch.equal(_load(directory).encode(["a cat"])[0], _load(published).encode(["a cat"])[0])


def test_spiece_model_alone_tokenizes_as_sentencepiece_does(directory: Path, no_network: None) -> None:
    import sentencepiece

    golden = Path(__file__).parents[1] / "golden" / "text_cleaning.json"
    prompts = [case["with_scores"] for case in json.loads(golden.read_text(encoding="utf-8"))]
    (directory / "tokenizer.json").unlink()
    (directory / "tokenizer_config.json").unlink()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(prompts),
        model_prefix=str(directory / "spiece"),
        vocab_size=150,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    encoder = _load(directory, max_length=1000)
    processor = sentencepiece.SentencePieceProcessor(str(directory / "spiece.model"))
    for prompt in [*prompts, "ﬁ ＡＢＣ 😀", " a  b "]:
        assert encoder._tokenize(prompt) == [*processor.encode(prompt), 1]


def _remove(name: str) -> Any:
    return lambda directory: (directory / name).unlink()


def _truncate(name: str) -> Any:
    return lambda directory: os.truncate(directory / name, (directory / name).stat().st_size // 2)


def _lose_a_tensor(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    del weights["encoder.block.1.layer.0.SelfAttention.k.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def _add_a_tensor(directory: Path) -> None:
    weights = {**load_file(directory / "model.safetensors"), "encoder.extra.weight": torch.ones(1)}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def _miscount_layers_of_pickles(num_layers: int) -> Any:
    """Pickles do not tell their keys beforehand: what was loaded has to be looked at."""

    def damage(directory: Path) -> None:
        _write_shards(directory, suffix="bin")
        _edit_config(directory, num_layers=num_layers)

    return damage


def _lose_a_shard(directory: Path) -> None:
    _write_shards(directory, suffix="bin")
    (directory / "pytorch_model-00002-of-00002.bin").unlink()


def _cut_a_pickle(directory: Path) -> None:
    _write_shards(directory, suffix="bin")
    _truncate("pytorch_model-00002-of-00002.bin")(directory)


def _break_the_index(directory: Path) -> None:
    _write_shards(directory, suffix="safetensors")
    (directory / "model.safetensors.index.json").write_text("[]")


def _drop_the_end_token(directory: Path) -> None:
    path = directory / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "post_processor": None}))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (shutil.rmtree, "expected a directory with a T5 text encoder"),
        (_remove("config.json"), "no config.json"),
        (lambda directory: (directory / "config.json").write_text("{"), "config.json is no valid JSON"),
        (lambda directory: (directory / "config.json").write_text("[]"), "it says None"),
        (lambda directory: _edit_config(directory, model_type="clip"), "it says 'clip'"),
        (_remove("model.safetensors"), "no weights: expected one of model.safetensors"),
        (_truncate("model.safetensors"), "model.safetensors is no whole safetensors file"),
        (_lose_a_tensor, "encoder.block.1.layer.0.SelfAttention.k.weight"),
        (lambda directory: _edit_config(directory, d_model=48), "do not fit config.json"),
        (lambda directory: _edit_config(directory, num_layers=3), "num_layers 3, the weights beside it have 2"),
        (lambda directory: _edit_config(directory, num_layers=1), "num_layers 1, the weights beside it have 2"),
        (lambda directory: _edit_config(directory, num_layers=-1), "num_layers to be a whole number"),
        (lambda directory: _edit_config(directory, num_heads="x"), "num_heads to be a whole number"),
        (lambda directory: _edit_config(directory, d_kv=0), "d_kv to be a whole number"),
        (lambda directory: _edit_config(directory, vocab_size=None), "vocab_size to be a whole number"),
        (lambda directory: _edit_config(directory, layer_norm_epsilon="x"), "layer_norm_epsilon to be a number"),
        (lambda directory: _edit_config(directory, feed_forward_proj="gated-none"), "one of relu, gated-gelu"),
        (lambda directory: _edit_config(directory, feed_forward_proj=[5]), "one of relu, gated-gelu"),
        (lambda directory: _edit_config(directory, dense_act_fn="none"), "could not be loaded"),
        (_miscount_layers_of_pickles(1), "have no place in it, such as encoder.block.1."),
        (_miscount_layers_of_pickles(3), "are missing, such as encoder.block.2."),
        (_add_a_tensor, "1 tensors have no place in it, such as encoder.extra.weight"),
        (_lose_a_shard, "not there: pytorch_model-00002-of-00002.bin"),
        (_cut_a_pickle, "could not be loaded"),
        (_break_the_index, "no valid index"),
        (_remove("tokenizer.json"), "no tokenizer: expected tokenizer.json or spiece.model"),
        (_truncate("tokenizer.json"), "the tokenizer in"),
        (_drop_the_end_token, "end-of-text token"),
        (lambda directory: _edit_config(directory, vocab_size=100), "has 259 tokens, the model only 100"),
    ],
)
def test_a_bad_directory_is_an_input_error_that_names_the_fault(directory: Path, damage: Any, says: str) -> None:
    damage(directory)
    with pytest.raises(InputError) as caught:
        _load(directory)
    assert says in str(caught.value)


class _RunsCode:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_code_is_refused(directory: Path, tmp_path: Path) -> None:
    (directory / "model.safetensors").unlink()
    torch.save({"shared.weight": _RunsCode(tmp_path / "ran")}, directory / "pytorch_model.bin")
    with pytest.raises(InputError, match="could not be loaded"):
        _load(directory)
    assert not (tmp_path / "ran").exists()


def test_importing_the_encoder_does_not_import_transformers() -> None:
    modules = "pavdm.models.text_encoder, pavdm.models.byte_tokenizer"
    check = f"import sys, {modules}; print('transformers' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "False"
