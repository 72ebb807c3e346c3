"""The product of a head with one row takes another way than with many, and must say the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from outlex.heads.linear import linear


def made(n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in ((n, 48), (96, 48), (96,)))  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 48), (48,), (1, 1, 48), (3, 48), (2, 1, 48)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_it_is_w_x_plus_b(shape: tuple[int, ...], dtype: torch.dtype, with_bias: bool) -> None:
    x, weight, bias = made(12, dtype)
    x = x.flatten()[: torch.Size(shape).numel()].view(shape)
    wanted = x.double() @ weight.double().T + (bias.double() if with_bias else 0.0)
    found = linear(x, weight, bias if with_bias else None)
    assert found.shape == wanted.shape
    assert found.dtype == dtype
    # one rounding of the result, and one of the sum before the bias
    torch.testing.assert_close(
        found.double(), wanted, rtol=2 * torch.finfo(dtype).eps, atol=20 * torch.finfo(dtype).eps
    )


def test_one_row_of_bfloat16_is_a_matrix_vector_product_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, _ = made(2, torch.bfloat16)
    calls: list[int] = []
    product = torch.mv

    def counted(a: Tensor, b: Tensor) -> Tensor:
        calls.append(b.numel())
        return product(a, b)

    monkeypatch.setattr(torch, "mv", counted)
    linear(x, weight)
    linear(x.float(), weight.float())
    assert not calls
    linear(x[:1], weight)
    assert calls == [48]


def test_under_autocast_the_dtypes_may_differ() -> None:
    x, weight, bias = made(1, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = linear(x.bfloat16(), weight, bias)
    torch.testing.assert_close(found.float(), x @ weight.T + bias, rtol=0.05, atol=0.2)


def test_it_can_be_trained_through() -> None:
    x, weight, bias = made(1, torch.bfloat16)
    weight.requires_grad_()
    linear(x, weight, bias).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, x.expand_as(weight))
