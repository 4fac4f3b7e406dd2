"""T5 text encoder: prompt -> one vector per token, by `transformers`, from files on disk only.

A directory in Hugging Face layout holds `config.json`, the weights (`model.safetensors` or `pytorch_model.bin`,
whole or in shards with an index, or a single `.safetensors` of any name; of a full T5 the decoder is left out), and
the tokenizer (`tokenizer.json` or `spiece.model`). `DeepFloyd/t5-v1_1-xxl` is the encoder that Open-Sora was trained
with.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pavdm.errors import InputError
from pavdm.models.config_checks import check_positive, check_whole, refuse

logger = logging.getLogger(__name__)

# In the order in which transformers looks for them.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")
# Of a whole T5: its decoder, its output layer, and the table that encoder and decoder share.
OF_A_WHOLE_T5 = ("decoder.", "lm_head.", "shared.", "encoder.embed_tokens.")
FEED_FORWARDS = ("relu", "gated-gelu", "gated-silu")  # T5, T5 v1.1, UL2
SIZES = (
    "d_model",
    "d_kv",
    "d_ff",
    "num_layers",
    "num_heads",
    "vocab_size",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
)


class TextEncoder:
    """A T5 encoder and its tokenizer. `max_length` is in tokens, the end-of-text token included."""

    def __init__(self, model: Any, tokenizer: Any, max_length: int = 300) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length

    @classmethod
    def load(
        cls, directory: str | Path, device: torch.device | str, dtype: torch.dtype, max_length: int = 300
    ) -> TextEncoder:
        """Raises InputError, naming the file, if something in `directory` is missing, foreign or damaged."""
        directory = Path(directory)
        config = check_files(directory)
        with quiet_transformers():
            tokenizer = _load_tokenizer(directory, config)
            model = _load_model(directory, dtype)
        return cls(model.to(device).eval().requires_grad_(False), tokenizer, max_length)

    @property
    def d_model(self) -> int:
        """Size of a token's vector."""
        return int(self.model.config.d_model)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """Per text (n_tokens, d_model) in fp32 on the CPU: its real tokens, the last one end-of-text.

        A text beyond `max_length` tokens is cut, with a warning that quotes what was cut. Each text is
        encoded alone and unpadded: the same numbers as padded under a mask (the published way), whatever else
        is in the batch.
        """
        embeddings = []
        for text in texts:
            tokens = torch.tensor([self._tokenize(text)], device=self.model.device)  # (1, n_tokens)
            hidden = self.model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
            embeddings.append(hidden[0].float().cpu())
        return embeddings

    def _tokenize(self, text: str) -> list[int]:
        tokens: list[int] = self.tokenizer(text)["input_ids"]
        if len(tokens) <= self.max_length:
            return tokens
        cut = tokens[self.max_length - 1 : -1]
        logger.warning(
            "the prompt has %d tokens and the model reads %d: the end of it is ignored: %r",
            len(tokens),
            self.max_length,
            self.tokenizer.decode(cut),
        )
        return tokens[: self.max_length - 1] + tokens[-1:]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps transformers' progress bars and notes off the terminal; what matters in them is an InputError."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    progress_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if progress_bar:
            transformers_logging.enable_progress_bar()


def check_files(directory: Path) -> dict[str, Any]:
    """The content of config.json, after the checks that `TextEncoder.load` makes before it reads the weights.

    Raises InputError if config.json, a file of weights or the tokenizer is missing or cannot be right.
    """
    config = _read_config(directory)
    _check_weight_files(directory, config)
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(
            f"the text encoder in {directory} has no tokenizer: expected {' or '.join(TOKENIZER_FILES)}; download it"
        )
    return config


def _read_config(directory: Path) -> dict[str, Any]:
    if not directory.is_dir():
        raise InputError(
            f"expected a directory with a T5 text encoder, found none at {directory}: download "
            f"DeepFloyd/t5-v1_1-xxl into it, or give the right path"
        )
    path = directory / "config.json"
    if not path.is_file():
        raise InputError(f"the text encoder in {directory} has no config.json: download it again, whole")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is no valid JSON ({error}): download it again") from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type != "t5":
        raise InputError(
            f'{path} should describe a T5 text encoder ("model_type": "t5"), it says {model_type!r}: '
            f"put a model such as DeepFloyd/t5-v1_1-xxl there"
        )
    for name in SIZES:
        if name in config:  # what T5's configuration leaves out has transformers' default
            check_whole(str(path), name, config[name])
    proj = config.get("feed_forward_proj", "relu")
    if proj not in FEED_FORWARDS:
        raise refuse(str(path), "feed_forward_proj", f"one of {', '.join(FEED_FORWARDS)}", proj)
    if "layer_norm_epsilon" in config:
        check_positive(str(path), "layer_norm_epsilon", config["layer_norm_epsilon"], most=1.0)
    return config


def _check_weight_files(directory: Path, config: dict[str, Any]) -> None:
    """Finds missing, cut-off and misdescribed files before gigabytes are read."""
    from safetensors import SafetensorError, safe_open

    name = _weight_file(directory)
    if name is None:
        raise InputError(
            f"the text encoder in {directory} has no weights: expected one of {', '.join(WEIGHT_FILES)} "
            f"(an index with all its shards), or a single .safetensors file; download them"
        )
    shards = [name]
    if name.endswith(".index.json"):
        try:
            index = json.loads((directory / name).read_text(encoding="utf-8"))
            shards = sorted(set(index["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{directory / name} is no valid index of weights: download it again") from error
        missing = [shard for shard in shards if not (directory / shard).is_file()]
        if missing:
            raise InputError(
                f"the text encoder in {directory} is incomplete: {name} names {len(shards)} files, "
                f"not there: {', '.join(missing)}; download what is missing"
            )
    keys: list[str] = []
    for shard in shards:
        if shard.endswith(".safetensors"):
            try:
                with safe_open(directory / shard, framework="pt") as handle:
                    keys += handle.keys()
            except SafetensorError as error:
                raise InputError(
                    f"{directory / shard} is no whole safetensors file ({error}): download it again"
                ) from error

    layers = {int(found[1]) + 1 for key in keys if (found := re.match(r"encoder\.block\.(\d+)\.", key))}
    if layers and max(layers) != config.get("num_layers", max(layers)):
        raise InputError(
            f"{directory / 'config.json'} says num_layers {config['num_layers']}, the weights beside it have "
            f"{max(layers)} layers: put the config.json there that came with these weights"
        )


def _weight_file(directory: Path) -> str | None:
    """Name of the file or index to load: a usual one, else the only .safetensors, whatever it is called."""
    usual = next((name for name in WEIGHT_FILES if (directory / name).is_file()), None)
    others = [path.name for path in directory.glob("*.safetensors")]
    return usual or (others[0] if len(others) == 1 else None)


def read_tokenizer(directory: Path) -> Any:
    """The tokenizer of T5's kind in `directory`; tokenizer.json or spiece.model alone is enough.

    Raises InputError for one that cannot be read, or does not end a text as T5's does.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast, T5Tokenizer

    kind: Any = AutoTokenizer  # reads from a configuration what kind it is
    if not any((directory / name).is_file() for name in ("tokenizer_config.json", "config.json")):
        kind = PreTrainedTokenizerFast if (directory / TOKENIZER_FILES[0]).is_file() else T5Tokenizer
    try:
        tokenizer = kind.from_pretrained(str(directory), local_files_only=True)
    # `tokenizers` and `sentencepiece` raise bare Exception and RuntimeError for a damaged file.
    except Exception as error:
        raise InputError(
            f"the tokenizer in {directory} could not be loaded ({error}): download it again; "
            f"spiece.model needs the Python packages sentencepiece and protobuf"
        ) from error
    tokenizer.model_max_length = 10**9  # `encode` cuts, and says what
    empty = tokenizer("")["input_ids"]
    if len(empty) != 1 or tokenizer.eos_token_id not in (None, *empty):
        raise InputError(
            f"the tokenizer in {directory} should end every text with an end-of-text token, as T5's does, "
            f"and does not: put the model's own tokenizer there"
        )
    return tokenizer


def _load_tokenizer(directory: Path, config: dict[str, Any]) -> Any:
    tokenizer = read_tokenizer(directory)
    vocab_size = config.get("vocab_size", 32128)  # what T5's configuration means when it is silent
    if len(tokenizer) > vocab_size:
        raise InputError(
            f"the tokenizer in {directory} has {len(tokenizer)} tokens, the model only {vocab_size}: "
            f"put the model's own tokenizer there"
        )
    return tokenizer


def _load_model(directory: Path, dtype: torch.dtype) -> Any:
    import transformers
    from packaging.version import Version
    from safetensors.torch import load_file

    renamed = Version(transformers.__version__) >= Version("4.56")
    options: dict[str, Any] = {"dtype" if renamed else "torch_dtype": dtype, "output_loading_info": True}
    model_class: Any = transformers.T5EncoderModel  # its annotations do not know of the loading info
    place: str | None = str(directory)
    try:
        if (name := _weight_file(directory)) is not None and name not in WEIGHT_FILES:
            options["config"] = transformers.T5Config.from_pretrained(str(directory), local_files_only=True)
            place, options["state_dict"] = None, load_file(directory / name)
        model, info = model_class.from_pretrained(place, local_files_only=True, **options)
    # An unknown activation is a KeyError; a field of another type whatever it provokes.
    except (
        OSError,
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
        pickle.UnpicklingError,
    ) as error:
        raise InputError(
            f"the text encoder's weights in {directory} could not be loaded: they are damaged, or do not fit "
            f"config.json ({error}); download the directory again"
        ) from error
    missing = sorted(info["missing_keys"])
    unexpected = sorted(key for key in info["unexpected_keys"] if not key.startswith(OF_A_WHOLE_T5))
    for keys, what in ((missing, "are missing"), (unexpected, "have no place in it")):
        if keys:
            raise InputError(
                f"the weights in {directory} are not those of the T5 encoder that config.json describes: "
                f"{len(keys)} tensors {what}, such as {', '.join(keys[:3])}; download the directory again"
            )
    return model
