"""Sums of small integers, and early requests for memory: what Numba needs LLVM's own language for.

Coordinates become integers of 16 bits (`to_levels`), codes have 4 or 8, and products are added up in pairs, which is
one instruction on most processors; written as loops, Numba would make floats of every code. The instructions here are
LLVM's for any processor, and it finds the pairs in them: `add(even, odd)` of a vector of products. All sums are exact.

Whoever changes this file touches `numba_kernels` as well: what Numba keeps compiled is renewed when that file changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

__all__ = ["GROUP", "fetch", "group_sums", "row_sum", "to_levels"]

GROUP = 32  # rows whose int4 codes are summed together
_LARGEST = 32767

_I16, _I32, _I64, _F32 = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_CODES, _PAIRS, _WIDE = ir.VectorType(_I16, 32), ir.VectorType(_I32, 32), ir.VectorType(_I32, 16)
_BYTES, _FLOATS = ir.VectorType(ir.IntType(8), 32), ir.VectorType(_F32, 16)


@njit  # type: ignore[untyped-decorator]
def to_levels(values: Any, levels: Any) -> Any:
    """values float32 [n] ≈ step · levels int16 [n]; the step is NaN if a value is not finite."""
    largest, broken = np.float32(0), np.float32(0)
    for value in values:
        largest = max(largest, abs(value))
        broken += value * np.float32(0)
    per_step = np.float32(_LARGEST) / largest if largest > 0 and broken == 0 else np.float32(0)
    if not per_step < np.inf:  # all of them are next to nothing
        per_step = np.float32(0)
    for i in range(values.shape[0]):
        levels[i] = np.int16(np.rint(values[i] * per_step)) if per_step > 0 else np.int16(0)
    return largest / np.float32(_LARGEST) + broken


@intrinsic  # type: ignore[untyped-decorator]
def group_sums(context: Any, codes: Any, levels: Any, sums: Any) -> Any:
    """Σ code · level of 32 rows.

    codes uint8 [16 w], byte [j / 2, l, j % 2] with column j of row l in the low half and of row l + 16 in the high one;
    levels int16 [w], w even and at most 4,000, so that no sum overflows; sums int32 [32], written.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        found, given, out = _arrays(context, builder, signature.args, args)
        n_pairs = builder.lshr(builder.extract_value(given.shape, 0), _I64(1))
        none = _WIDE(None)
        with _Loop(builder, n_pairs, [none, none]) as (loop, i, (low, high)):
            packed = _load(builder, found, builder.shl(i, _I64(5)), _BYTES)
            wide = builder.zext(packed, _CODES)
            # both levels of the columns, for all rows
            pair = _load(builder, given, builder.shl(i, _I64(1)), _I32)
            one = builder.insert_element(_WIDE(ir.Undefined), pair, _I32(0))
            level = builder.bitcast(builder.shuffle_vector(one, _WIDE(ir.Undefined), _WIDE([0] * 16)), _CODES)
            loop.next(
                builder.add(low, _paired(builder, builder.and_(wide, _CODES([15] * 32)), level)),
                builder.add(high, _paired(builder, builder.lshr(wide, _CODES([4] * 32)), level)),
            )
        for first, total in zip((0, 16), loop.results, strict=True):
            _place(builder, out, _I64(first), _WIDE, total)
        return context.get_dummy_value()

    return types.void(codes, levels, sums), code


@intrinsic  # type: ignore[untyped-decorator]
def row_sum(context: Any, codes: Any, levels: Any) -> Any:
    """Σ code · level of one row, as float32.

    codes int8 [m or more], levels int16 [m], m a multiple of 32 and at most 8,000, so that no sum overflows.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        found, given = _arrays(context, builder, signature.args, args)
        n_steps = builder.lshr(builder.extract_value(given.shape, 0), _I64(5))
        with _Loop(builder, n_steps, [_WIDE(None)]) as (loop, i, (total,)):
            at = builder.shl(i, _I64(5))
            wide = builder.sext(_load(builder, found, at, _BYTES), _CODES)
            loop.next(builder.add(total, _paired(builder, wide, _load(builder, given, at, _CODES))))
        floats = builder.sitofp(loop.results[0], _FLOATS)
        kind = ir.FunctionType(_F32, [_F32, _FLOATS])
        add = builder.module.declare_intrinsic("llvm.vector.reduce.fadd.v16f32", (), kind)
        return builder.call(add, [_F32(0), floats], fastmath=["reassoc"])

    return types.float32(codes, levels), code


@intrinsic  # type: ignore[untyped-decorator]
def fetch(context: Any, row: Any, index: Any) -> Any:
    """Ask for the cache line of row[index], and do not wait for it."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        ask = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        address = builder.bitcast(builder.gep(array.data, [args[1]]), byte)
        builder.call(ask, [address, number(0), number(3), number(1)])  # to read, into every cache, data
        return context.get_dummy_value()

    return types.void(row, index), code


class _Loop:
    """`for i in range(n)` over values that are passed on, n at least 1."""

    def __init__(self, builder: Any, n: Any, first: list[Any]) -> None:
        self._builder, self._n = builder, n
        before, self._body = builder.block, builder.append_basic_block("body")
        builder.branch(self._body)
        builder.position_at_end(self._body)
        self._i = builder.phi(_I64)
        self._i.add_incoming(_I64(0), before)
        self._values = [builder.phi(value.type) for value in first]
        for value, start in zip(self._values, first, strict=True):
            value.add_incoming(start, before)

    def __enter__(self) -> tuple[_Loop, Any, list[Any]]:
        return self, self._i, self._values

    def next(self, *values: Any) -> None:
        """What the next turn gets, and after the last one `results`."""
        self.results = values

    def __exit__(self, *error: object) -> None:
        builder = self._builder
        i = builder.add(self._i, _I64(1))
        for phi, value in zip([self._i, *self._values], [i, *self.results], strict=True):
            phi.add_incoming(value, builder.block)
        after = builder.append_basic_block("after")
        builder.cbranch(builder.icmp_unsigned("<", i, self._n), self._body, after)
        builder.position_at_end(after)


def _arrays(context: Any, builder: Any, kinds: Any, values: Any) -> list[Any]:
    return [context.make_array(kind)(context, builder, value) for kind, value in zip(kinds, values, strict=True)]


def _address(builder: Any, array: Any, index: Any, kind: Any) -> Any:
    return builder.bitcast(builder.gep(array.data, [index]), kind.as_pointer())


def _load(builder: Any, array: Any, index: Any, kind: Any) -> Any:
    return builder.load(_address(builder, array, index, kind), align=1)


def _place(builder: Any, array: Any, index: Any, kind: Any, value: Any) -> None:
    builder.store(value, _address(builder, array, index, kind), align=1)


def _paired(builder: Any, a: Any, b: Any) -> Any:
    """a[2 i] b[2 i] + a[2 i + 1] b[2 i + 1]: two <32 x i16> -> <16 x i32>."""
    products = builder.mul(builder.sext(a, _PAIRS), builder.sext(b, _PAIRS))
    none = _PAIRS(ir.Undefined)
    even, odd = (builder.shuffle_vector(products, none, _WIDE(list(range(k, 32, 2)))) for k in (0, 1))
    return builder.add(even, odd)
