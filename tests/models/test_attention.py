"""Attention back ends against the definition of attention."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import Tensor

from pavdm.models import attention


def by_definition(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of one head and one query at a time, in fp64."""
    batch, heads, queries, dim = q.shape
    out = torch.empty(batch, queries, heads, dim, dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            for n in range(queries):
                scores = (k[b, h].double() @ q[b, h, n].double()) / dim**0.5
                weights = scores.exp() / scores.exp().sum()
                out[b, n, h] = weights @ v[b, h].double()
    return out.flatten(2)


def random_qkv(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 5, 3, 8, generator=generator).transpose(1, 2)  # (B, heads, N, D), laid out as the network does
    k, v = (torch.randn(2, 3, 7, 8, generator=generator) for _ in range(2))
    return q.to(dtype), k.to(dtype), v.to(dtype)


def test_sdpa_scales_scores_and_returns_tokens_with_heads_side_by_side() -> None:
    q, k, v = random_qkv()
    out = attention.sdpa(q, k, v)
    assert out.shape == (2, 5, 24)
    torch.testing.assert_close(out.double(), by_definition(q, k, v), atol=1e-5, rtol=1e-5)


def test_flash_hands_the_package_its_own_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    def flash_attn_func(
        q: Tensor, k: Tensor, v: Tensor
    ) -> Tensor:  # (B, N, heads, D) in and out, as the package has it
        assert q.shape == (2, 5, 3, 8) and k.shape == v.shape == (2, 7, 3, 8)
        return by_definition(*(x.transpose(1, 2) for x in (q, k, v))).unflatten(2, (3, 8))

    package = types.ModuleType("flash_attn")
    package.flash_attn_func = flash_attn_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    q, k, v = random_qkv()
    torch.testing.assert_close(attention.flash(q, k, v), by_definition(q, k, v))


@pytest.mark.parametrize(
    ("device", "dtype", "installed", "capability", "expected"),
    [
        ("cpu", torch.bfloat16, True, (9, 0), "sdpa"),
        ("cuda", torch.float32, True, (9, 0), "sdpa"),
        ("cuda", torch.bfloat16, False, (9, 0), "sdpa"),
        ("cuda", torch.float16, True, (7, 5), "sdpa"),
        ("cuda", torch.float16, True, (8, 0), "flash-attn"),
        ("cuda", torch.bfloat16, True, (9, 0), "flash-attn"),
    ],
)
def test_flash_attn_is_chosen_only_where_it_can_run(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    dtype: torch.dtype,
    installed: bool,
    capability: tuple[int, int],
    expected: str,
) -> None:
    monkeypatch.setattr(attention.importlib.util, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setitem(sys.modules, "flash_attn", types.ModuleType("flash_attn"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    name, function = attention.best_attention(device, dtype)
    assert name == expected
    assert function is (attention.flash if expected == "flash-attn" else attention.sdpa)


def test_a_broken_flash_attn_is_named_in_the_log_and_passed_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def load(name: str) -> None:
        raise ImportError("undefined symbol: built for another torch")

    monkeypatch.setattr(attention.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(attention.importlib, "import_module", load)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert attention.best_attention("cuda", torch.bfloat16) == ("sdpa", attention.sdpa)
    assert "undefined symbol" in caplog.text
