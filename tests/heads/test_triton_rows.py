"""The Triton kernels: under Triton's interpreter everywhere it is installed, and on a GPU where there is one.

The interpreter has to be chosen before Triton is imported, for a whole process: the kernels run in one that this
module starts, and neither Triton nor its setting reaches other tests.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import outlex.heads
from outlex.errors import InputError
from outlex.heads import preview, quantized_rows
from outlex.heads.linear import LinearHead
from outlex.heads.preview import PreviewHead
from outlex.heads.preview_fit import PreviewSpace, Tier
from outlex.heads.quantized_rows import INT4_RANKS, QuantizedRows, RowScorer, quantize_rows
from outlex.heads.request_tokens import RequestTokens
from outlex.vocab.shortlist import Shortlist

Call = Callable[..., Any]

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="Triton is not installed (pip install 'outlex[triton]')"
)


# --- what runs where ----------------------------------------------------------------------------------------


def set_environment(name: str, value: str) -> None:
    os.environ[name] = value


def kernel(name: str, *args: Any, **kwargs: Any) -> Tensor:
    from outlex.heads import triton_rows

    found: Tensor = getattr(triton_rows, name)(*args, **kwargs)
    return found


def fused_scores(rows: QuantizedRows, z: Tensor, picked: Tensor | None) -> Tensor:
    """A scorer that finds Triton, on whatever device: the kernels do not care under the interpreter."""
    from outlex.heads import triton_rows

    real = quantized_rows._fused_kernel
    kernels: dict[str, Call] = {"int4": triton_rows.int4_scores, "int8": triton_rows.int8_scores}
    quantized_rows._fused_kernel = lambda storage, device: kernels.get(storage)  # type: ignore[assignment]
    try:
        scorer = RowScorer(rows, z.device)
    finally:
        quantized_rows._fused_kernel = real
    return scorer.scores(z) if picked is None else scorer.scores_of(picked, z)


def compiled(name: str, signature: dict[str, str], constants: dict[str, Any], capability: int) -> list[str]:
    """Stages that a kernel was compiled to, for a GPU that need not be there."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from outlex.heads import triton_rows

    types = {**signature, **dict.fromkeys(constants, "constexpr")}
    source = ASTSource(getattr(triton_rows, name), types, constexprs=constants)
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": True})
    return sorted(built.asm)


def on_bytes(call: Call, args: bytes) -> bytes:
    positional, named = pickle.loads(args)
    return pickle.dumps(call(*positional, **named))


class Elsewhere:
    """Calls functions of this module in another process; tensors travel as bytes, not as shared memory."""

    def __init__(self, variable: str, value: str) -> None:
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), set_environment, (variable, value))

    def __call__(self, call: Call, *args: Any, **kwargs: Any) -> Any:
        return pickle.loads(self._pool.submit(on_bytes, call, pickle.dumps((args, kwargs))).result())

    def close(self) -> None:
        self._pool.shutdown()


def on_gpu(call: Call, *args: Any, **kwargs: Any) -> Any:
    moved = [one.cuda() if isinstance(one, Tensor) else one for one in args]
    named = {key: one.cuda() if isinstance(one, Tensor) else one for key, one in kwargs.items()}
    return call(*moved, **named).cpu()


@pytest.fixture(scope="module", params=["interpreter", "cuda"])
def run(request: pytest.FixtureRequest) -> Iterator[Call]:
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no GPU")
        yield on_gpu
        return
    interpreter = Elsewhere("TRITON_INTERPRET", "1")
    yield interpreter
    interpreter.close()


# --- references ---------------------------------------------------------------------------------------------


def stored(n: int, rank: int, storage: Any, *, seed: int = 0) -> QuantizedRows:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(n, rank, generator=generator) * torch.rand(n, 1, generator=generator) * 3
    return quantize_rows(matrix, torch.randn(n, generator=generator) * 5, storage)


def positions(n: int, width: int, *, seed: int = 1) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def exact(rows: QuantizedRows, z: Tensor) -> Tensor:
    """float64 [n, n_rows], from codes and z as the kernel gets them, one column after the other."""
    codes = rows.codes.long()
    if rows.storage == "int4":
        columns = [(codes[:, j // 2] >> 4 * (j % 2) & 15) - 8 for j in range(2 * codes.shape[1])]
        codes = torch.stack(columns, -1)
    return z.double() @ (codes.double() * rows.scales.double().unsqueeze(-1)).T + rows.offsets.double()


def parts(rows: QuantizedRows) -> tuple[Tensor, Tensor, Tensor]:
    return rows.codes, rows.scales, rows.offsets


def assert_exact(got: Tensor, wanted: Tensor) -> None:
    """Float32 sums of at most 256 terms of this size; rounding anything to bfloat16 would be off by 1e-2."""
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-4)


# --- the kernels --------------------------------------------------------------------------------------------


@needs_triton
@settings(max_examples=12)
@given(n_rows=st.integers(1, 300), n=st.integers(1, 5), rank=st.sampled_from(INT4_RANKS), seed=st.integers(0, 99))
def test_int4_is_exact_up_to_float32(run: Call, n_rows: int, n: int, rank: int, seed: int) -> None:
    rows = stored(n_rows, rank, "int4", seed=seed)
    z = positions(n, rank + 1, seed=seed).to(torch.bfloat16)
    assert_exact(run(kernel, "int4_scores", z, *parts(rows)), exact(rows, z))


@needs_triton
@settings(max_examples=12)
@given(
    n_rows=st.integers(1, 100),
    n=st.integers(1, 4),
    rank=st.sampled_from([32, 96, 192, 256]),
    picked=st.none() | st.lists(st.integers(0, 10**6), max_size=70),
)
def test_int8_is_exact_up_to_float32(run: Call, n_rows: int, n: int, rank: int, picked: list[int] | None) -> None:
    rows = stored(n_rows, rank, "int8")
    z = positions(n, rank).to(torch.bfloat16)
    wanted = exact(rows, z)
    if picked is None:
        assert_exact(run(kernel, "int8_scores", z, *parts(rows)), wanted)
        return
    ids = torch.tensor(picked, dtype=torch.int64) % n_rows  # in any order, some of them twice
    assert_exact(run(kernel, "int8_scores", z, *parts(rows), rows=ids), wanted[:, ids])


@needs_triton
def test_every_code_of_a_byte_is_read(run: Call) -> None:
    codes = torch.arange(256, dtype=torch.uint8).repeat_interleave(16).view(256, 16)
    rows = QuantizedRows(
        storage="int4",
        codes=codes,
        scales=torch.full((256,), 0.5, dtype=torch.bfloat16),
        offsets=torch.full((256,), 3.0, dtype=torch.bfloat16),
    )
    even, odd = (torch.arange(32) % 2 == side for side in (0, 1))
    z = torch.stack([even, odd]).to(torch.bfloat16)
    got = run(kernel, "int4_scores", z, *parts(rows))
    byte = torch.arange(256)
    assert torch.equal(got[0], 16 * 0.5 * ((byte & 15) - 8.0) + 3)
    assert torch.equal(got[1], 16 * 0.5 * ((byte >> 4) - 8.0) + 3)


@needs_triton
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(("storage", "rank"), [("int4", 63), ("int4", 127), ("int8", 96)])
def test_a_scorer_with_triton_agrees_with_the_one_for_cpus(run: Call, storage: Any, rank: int, n: int) -> None:
    rows, z = stored(517, rank, storage), positions(n, rank)
    wanted = RowScorer(rows, torch.device("cpu")).scores(z)
    got = run(fused_scores, rows, z, None)
    assert (got - wanted).abs().max() <= 1e-2 * wanted.abs().max()
    if storage == "int8":
        picked = torch.tensor([516, 0, 77, 77])
        assert torch.equal(run(fused_scores, rows, z, picked), got[:, picked])


@needs_triton
@pytest.mark.parametrize(
    ("name", "changes", "needle"),
    [
        ("int4_scores", {"z": torch.zeros(1, 32)}, "z torch.float32"),
        ("int4_scores", {"z": torch.zeros(1, 16, dtype=torch.bfloat16)}, r"\[1, 16\]"),
        ("int4_scores", {"z": torch.zeros(0, 32, dtype=torch.bfloat16)}, "at least one"),
        ("int4_scores", {"codes": torch.zeros(4, 16, dtype=torch.int8)}, "expected: .* codes torch.uint8"),
        ("int4_scores", {"codes": torch.zeros(16, 4, dtype=torch.uint8).T}, "codes .*, not contiguous"),
        ("int4_scores", {"codes": torch.zeros(16, dtype=torch.uint8)}, "RowScorer"),
        ("int4_scores", {"scales": torch.zeros(4)}, "scales torch.float32"),
        ("int4_scores", {"offsets": torch.zeros(3, dtype=torch.bfloat16)}, r"offsets torch.bfloat16 \[3\]"),
        (
            "int4_scores",
            {"codes": torch.zeros(4, 24, dtype=torch.uint8), "z": torch.zeros(1, 48, dtype=torch.bfloat16)},
            "INT4_RANKS",
        ),
        ("int8_scores", {"codes": torch.zeros(4, 32, dtype=torch.uint8)}, "expected: .* codes torch.int8"),
        ("int8_scores", {"rows": torch.zeros(2, dtype=torch.int32)}, "as `topk` returns"),
        ("int8_scores", {"rows": torch.zeros(2, 1, dtype=torch.int64)}, "as `topk` returns"),
    ],
)
def test_what_the_kernels_refuse(run: Call, name: str, changes: dict[str, Tensor], needle: str) -> None:
    packed = name == "int4_scores"
    given_to: dict[str, Tensor] = {
        "z": torch.zeros(1, 32, dtype=torch.bfloat16),
        "codes": torch.zeros(4, 16, dtype=torch.uint8) if packed else torch.zeros(4, 32, dtype=torch.int8),
        "scales": torch.zeros(4, dtype=torch.bfloat16),
        "offsets": torch.zeros(4, dtype=torch.bfloat16),
    }
    with pytest.raises(InputError, match=needle):
        run(kernel, name, **{**given_to, **changes})


@needs_triton
def test_the_kernels_compile_for_gpus(tmp_path: Path) -> None:
    compiler = Elsewhere("TRITON_CACHE_DIR", str(tmp_path))
    shared = {"scales": "*bf16", "offsets": "*bf16", "out": "*fp32", "n_rows": "i32", "n_positions": "i32"}
    packed = {**shared, "z_pairs": "*i32", "codes": "*u8"}
    picked = {**shared, "z": "*bf16", "codes": "*i8", "picked": "*i64"}
    stages = compiler(compiled, "_int4_kernel", packed, {"width": 32, "n_tile": 128}, 80)
    assert {"ttgir", "ptx", "cubin"} <= set(stages)
    stages = compiler(compiled, "_int8_kernel", picked, {"rank": 192, "width": 256, "n_tile": 16}, 90)
    assert {"ttgir", "ptx", "cubin"} <= set(stages)
    compiler.close()


# --- what is around them ------------------------------------------------------------------------------------


def test_without_triton_nothing_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized_rows, "find_spec", lambda name: None)
    found = quantized_rows._fused_kernel.__wrapped__  # past its cache
    for storage in ("bf16", "int8", "int4"):
        assert found(storage, torch.device("cuda")) is None
        assert found(storage, torch.device("cpu")) is None


@pytest.mark.parametrize("storage", ["int8", "int4"])
def test_a_kernel_is_tried_before_it_is_chosen(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real_zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, device, **rest: real_zeros(*size, **rest))
    monkeypatch.setattr(quantized_rows, "find_spec", lambda name: name)
    kernels = SimpleNamespace(int4_scores=in_plain_torch, int8_scores=in_plain_torch)
    monkeypatch.setitem(sys.modules, "outlex.heads.triton_rows", kernels)
    monkeypatch.setattr(outlex.heads, "triton_rows", kernels, raising=False)
    found = quantized_rows._fused_kernel.__wrapped__
    assert found(storage, torch.device("cuda")) is in_plain_torch
    assert found("bf16", torch.device("cuda")) is None

    def fails(*args: Tensor) -> Tensor:
        raise RuntimeError("there is no cc")

    vars(kernels).update(int4_scores=fails, int8_scores=fails)
    with pytest.warns(UserWarning, match=f"{storage} rows .* compiler .* there is no cc"):
        assert found(storage, torch.device("cuda")) is None


@pytest.fixture(autouse=True)
def plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where Numba chooses nothing."""
    monkeypatch.setattr(preview, "_compiled_chooser", lambda: None)


def preview_head(**options: Any) -> PreviewHead:
    generator = torch.Generator().manual_seed(0)
    linear = LinearHead(weight=torch.randn(640, 64, generator=generator).to(torch.bfloat16))
    space = PreviewSpace.fit(linear, torch.randn(300, 64, generator=generator), rank=64)
    factor = space.factor([Tier(n_rows=200, rank=63), Tier(n_rows=None, rank=31)], fine_rank=64)
    return PreviewHead(linear, factor, n_target=600, n_candidates=128, n_exact=16, **options)


def move(value: Any, to: Callable[[Tensor], Tensor]) -> Any:
    """The same with all its tensors moved; heads and scorers in place."""
    if isinstance(value, Tensor):
        return to(value)
    if isinstance(value, tuple):
        return tuple(move(one, to) for one in value)
    if isinstance(value, LinearHead):
        return LinearHead(weight=to(value.weight))
    if isinstance(value, Shortlist):
        return Shortlist(to(value.draft_to_target), n_target=value.n_target)
    if isinstance(value, (PreviewHead, RowScorer, RequestTokens)):
        vars(value).update({name: move(part, to) for name, part in vars(value).items()})
    return value


def in_plain_torch(z: Tensor, codes: Tensor, scales: Tensor, offsets: Tensor, *, rows: Tensor | None = None) -> Tensor:
    if rows is not None:
        codes, scales, offsets = (one.index_select(0, rows) for one in (codes, scales, offsets))
    unpacked = torch.cat([codes & 15, codes >> 4], -1).to(torch.bfloat16) - 8 if codes.dtype == torch.uint8 else codes
    return (z.float() @ unpacked.float().T) * scales + offsets


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("follows", [False, True])
def test_a_preview_on_a_device_never_waits_for_it(n: int, follows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the device "meta" have shapes and no values: whatever needs one on the host raises."""
    monkeypatch.setattr(quantized_rows, "_fused_kernel", lambda storage, device: in_plain_torch)
    always = RequestTokens(torch.tensor([3, 5]), n_tokens=600, n_target=600, capacity=9) if follows else None
    head = preview_head(always=always)
    head.begin([7, 8, 9])
    n_exact = 16 + (5 if follows else 0)
    for part in (head, always):
        move(part, lambda tensor: tensor.to("meta"))
    scores = head.score(torch.empty(n, 64, dtype=torch.bfloat16, device="meta"))
    assert scores.logits.device.type == "meta"
    assert scores.logits.shape == (n, n_exact if n == 1 else 600)
    for waiting in (lambda: (scores.logits > 0).nonzero(), scores.logits.tolist, scores.logits.cpu):
        with pytest.raises(NotImplementedError):  # what this test is made to find
            waiting()


def test_candidates_on_cuda_are_those_of_the_cpu_up_to_their_number() -> None:
    head = preview_head()
    for seed in range(5):
        coarse = torch.randn(600, generator=torch.Generator().manual_seed(seed))
        on_cpu = head._candidates(coarse)
        fixed = head._candidates(_SaysCuda(coarse))  # type: ignore[arg-type]
        assert fixed.shape == (128,)
        fewer, more = sorted((set(on_cpu.tolist()), set(fixed.tolist())), key=len)
        assert fewer <= more
        assert len(more) < 2 * len(fewer)


class _SaysCuda:
    """A tensor of the CPU that gives another device."""

    device = torch.device("cuda")

    def __init__(self, tensor: Tensor) -> None:
        self.topk = tensor.topk
