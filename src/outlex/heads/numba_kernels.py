"""The kernels of `numba_rows`, in Numba. Importing this needs Numba.

Every `n_threads`-th piece of work is a thread's, so that hot and cold rows spread evenly; the pieces, and with them
what is computed, are the same for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

__all__ = ["BLOCK_ROWS", "CHUNKS", "GROUP", "choose", "products"]

BLOCK_ROWS = 512  # rows whose int4 codes lie together
GROUP = 32  # rows of a block are padded to a multiple
CHUNKS = 64  # pieces of the second stage's work
_SAMPLED = 16  # one group of scores in so many tells where the threshold of the candidates lies
_AHEAD = 8  # rows; memory is asked for them that much earlier than they are needed
_SUMS = {"contract", "reassoc"}  # fused multiply-adds, in any order; NaN and infinity keep their meaning


@njit(parallel=True, nogil=True, cache=True)  # type: ignore[untyped-decorator]
def choose(
    state: Any,
    mean: Any,
    basis: Any,
    rotations: Any,
    ranks: Any,
    blocks: Any,
    codes: Any,
    scales: Any,
    offsets: Any,
    fine: Any,
    order: Any,
    z: Any,
    turned: Any,
    scores: Any,
    rows: Any,
    second: Any,
    counts: Any,
    left_out: Any,
    n_candidates: int,
    ids: Any,
    n_threads: int,
) -> None:
    """Fill `ids` with the best rows'. `rows`, `second` and `counts` are of chunks: every 64th block is a chunk's."""
    centred = _centred(state, mean)
    for thread in prange(n_threads):
        for i in range(thread, z.shape[0], n_threads):
            z[i] = _rounded(_bfloat16_dot(basis[i], centred))
    _turn(z, rotations, ranks, turned)
    for thread in prange(n_threads):
        for block in range(thread, blocks.shape[0], n_threads):
            _score(blocks[block], codes, scales, offsets, turned, scores)
    sample = _sampled(scores)
    threshold = _level_of(sample, min(sample.shape[0], max(1, n_candidates // _SAMPLED)))
    for _ in range(2):
        for thread in prange(n_threads):
            for chunk in range(thread, CHUNKS, n_threads):
                n = 0
                for block in range(chunk, blocks.shape[0], CHUNKS):
                    n += _above(blocks[block], scores, threshold, rows[chunk, n:])
                if left_out.shape[0]:
                    n = _without(rows[chunk, :n], order, left_out)
                _second_scores(fine, rows[chunk, :n], z, second[chunk])
                counts[chunk] = n
        if counts.sum() >= ids.shape[0]:
            break
        # the sample misled; among so many there are enough that are not left out
        threshold = _level_of(scores, max(n_candidates, ids.shape[0] + left_out.sum()))
    _pick(rows, second, counts, order, ids)


@njit(parallel=True, nogil=True, cache=True)  # type: ignore[untyped-decorator]
def products(weight: Any, ids: Any, state: Any, found: Any, n_threads: int) -> None:
    n = ids.shape[0]
    for thread in prange(n_threads):
        for i in range(thread, n, n_threads):
            if i + n_threads < n:
                for at in range(0, weight.shape[1], 32):
                    _fetch(weight[ids[i + n_threads]], at)
            found[i] = _bfloat16_dot(weight[ids[i]], state)


@njit  # type: ignore[untyped-decorator]
def _centred(state: Any, mean: Any) -> Any:
    centred = np.empty(mean.shape[0], np.float32)
    for i in range(mean.shape[0]):
        centred[i] = _rounded(state[i] - mean[i])
    return centred


@njit  # type: ignore[untyped-decorator]
def _turn(z: Any, rotations: Any, ranks: Any, turned: Any) -> None:
    """z' = R z + 1 / (m + 1) for each tier, one after the other."""
    first, start = 0, 0
    for rank in ranks:
        for i in range(rank + 1):
            dot = _dot(rotations[start : start + rank], z[:rank])
            turned[first + i] = _rounded(dot + np.float32(1) / np.float32(rank + 1))
            start += rank
        first += rank + 1


@njit(fastmath=_SUMS)  # type: ignore[untyped-decorator]
def _score(block: Any, codes: Any, scales: Any, offsets: Any, turned: Any, scores: Any) -> None:
    """First scores of a block: scale · Σ (code − 8) z' + offset · Σ z'."""
    start, n_lanes, width, z_start, slot = block[0], block[1], block[2], block[3], block[4]
    stop = slot + 2 * n_lanes
    z = turned[z_start : z_start + width]
    sums = scores[slot:stop]
    _sum_codes(codes[start : start + width * n_lanes], z, sums[:n_lanes], sums[n_lanes:])
    _finish(sums, scales[slot:stop], offsets[slot:stop], z.sum())


@njit  # type: ignore[untyped-decorator]
def _sampled(scores: Any) -> Any:
    """One group of neighbours in so many: numbers far apart take a cache line each."""
    n_groups = -(-scores.shape[0] // (GROUP * _SAMPLED))
    sample = np.empty(n_groups * GROUP, np.float32)
    for i in range(n_groups):
        first = i * GROUP * _SAMPLED
        sample[i * GROUP : (i + 1) * GROUP] = scores[first : first + GROUP]
    return sample


@njit(fastmath=_SUMS)  # type: ignore[untyped-decorator]
def _sum_codes(codes: Any, z: Any, low: Any, high: Any) -> None:
    """Σ code · z over the columns of a block."""
    n_lanes = low.shape[0]
    low[:] = 0
    high[:] = 0
    for j in range(0, z.shape[0], 4):
        z0, z1, z2, z3 = z[j], z[j + 1], z[j + 2], z[j + 3]
        c0 = codes[j * n_lanes : (j + 1) * n_lanes]
        c1 = codes[(j + 1) * n_lanes : (j + 2) * n_lanes]
        c2 = codes[(j + 2) * n_lanes : (j + 3) * n_lanes]
        c3 = codes[(j + 3) * n_lanes : (j + 4) * n_lanes]
        for i in range(n_lanes):
            low[i] += (
                z0 * np.float32(c0[i] & 15)
                + z1 * np.float32(c1[i] & 15)
                + z2 * np.float32(c2[i] & 15)
                + z3 * np.float32(c3[i] & 15)
            )
            high[i] += (
                z0 * np.float32(c0[i] >> 4)
                + z1 * np.float32(c1[i] >> 4)
                + z2 * np.float32(c2[i] >> 4)
                + z3 * np.float32(c3[i] >> 4)
            )


@njit(fastmath=_SUMS)  # type: ignore[untyped-decorator]
def _finish(sums: Any, scales: Any, offsets: Any, z_sum: Any) -> None:
    for i in range(sums.shape[0]):
        sums[i] = _number(_float(scales[i]) * (sums[i] - np.float32(8) * z_sum) + _float(offsets[i]) * z_sum)


@njit  # type: ignore[untyped-decorator]
def _above(block: Any, scores: Any, threshold: Any, rows: Any) -> Any:
    slot, first_row, n_rows = block[4], block[5], block[6]
    own = scores[slot : slot + n_rows]
    n = 0
    for i in range(n_rows):
        rows[n] = first_row + i  # written over unless it stays
        n += own[i] >= threshold
    return n


@njit  # type: ignore[untyped-decorator]
def _without(rows: Any, order: Any, left_out: Any) -> Any:
    n = 0
    for row in rows:
        rows[n] = row
        n += not left_out[order[row]]
    return n


@njit(fastmath=_SUMS)  # type: ignore[untyped-decorator]
def _second_scores(fine: Any, rows: Any, z: Any, second: Any) -> None:
    """scale · Σ code z + offset, four rows at a time: what the registers hold."""
    width, last = fine.shape[1], rows.shape[0] - 1
    rank = width - 4
    for i in range(0, last + 1, 4):
        for later in range(i + _AHEAD, min(i + _AHEAD + 4, last + 1)):
            for at in range(0, width, 64):
                _fetch(fine[rows[later]], at)
        # where fewer than four are left, the last one is scored again
        i1, i2, i3 = min(i + 1, last), min(i + 2, last), min(i + 3, last)
        r0, r1, r2, r3 = fine[rows[i]], fine[rows[i1]], fine[rows[i2]], fine[rows[i3]]
        s0, s1, s2, s3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for j in range(rank):
            s0 += np.float32(r0[j]) * z[j]
            s1 += np.float32(r1[j]) * z[j]
            s2 += np.float32(r2[j]) * z[j]
            s3 += np.float32(r3[j]) * z[j]
        second[i], second[i1] = _affine(s0, r0[rank:]), _affine(s1, r1[rank:])
        second[i2], second[i3] = _affine(s2, r2[rank:]), _affine(s3, r3[rank:])


@intrinsic  # type: ignore[untyped-decorator]
def _fetch(context: Any, row: Any, index: Any) -> Any:
    """Ask for the cache line of row[index], and do not wait for it."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        address = builder.bitcast(builder.gep(array.data, [args[1]]), byte)
        builder.call(fetch, [address, number(0), number(3), number(1)])  # to read, into every cache, data
        return context.get_dummy_value()

    return types.void(row, index), code


@njit  # type: ignore[untyped-decorator]
def _affine(dot: Any, pair: Any) -> Any:
    bits = pair.view(np.uint16)
    return _number(_float(bits[0]) * dot + _float(bits[1]))


@njit  # type: ignore[untyped-decorator]
def _pick(rows: Any, second: Any, counts: Any, order: Any, ids: Any) -> None:
    """Ids of the best second scores; of those that tie, the first."""
    n = counts.sum()
    scores, candidates = np.empty(n, np.float32), np.empty(n, np.int32)
    at = 0
    for chunk in range(counts.shape[0]):
        end = at + counts[chunk]
        scores[at:end], candidates[at:end] = second[chunk, : end - at], rows[chunk, : end - at]
        at = end
    level = _level_of(scores, ids.shape[0])
    n_ties = ids.shape[0] - (scores > level).sum()
    at = 0
    for i in range(n):
        ties = scores[i] == level
        if scores[i] > level or (ties and n_ties > 0):
            n_ties -= ties
            ids[at] = order[candidates[i]]
            at += 1


@njit  # type: ignore[untyped-decorator]
def _level_of(values: Any, k: int) -> Any:
    """A level that the k largest of float32 [n] reach, and others only if they tie: n without NaN, 1 <= k <= n.

    Bisection over integers that have the order of floats: counting what reaches a level is one vector instruction for
    many of them.
    """
    bits = values.view(np.int32)
    keys = np.empty(values.shape[0], np.int32)
    for i in range(keys.shape[0]):
        keys[i] = bits[i] ^ ((bits[i] >> 31) & 0x7FFFFFFF)
    low, high = np.int64(-(2**31)), np.int64(2**31)  # at least k reach `low`, and fewer than k `high`
    while high - low > 1:
        level = (low + high) >> 1
        n = _n_reaching(keys, np.int32(level))
        if n >= k:
            low = level
        else:
            high = level
        if n == k:
            break
    keys[0] = low ^ ((low >> 31) & 0x7FFFFFFF)
    return keys.view(np.float32)[0]


@njit  # type: ignore[untyped-decorator]
def _n_reaching(keys: Any, level: Any) -> Any:
    n = np.int32(0)
    for i in range(keys.shape[0]):
        n += np.int32(keys[i] >= level)
    return n


@njit(fastmath=_SUMS)  # type: ignore[untyped-decorator]
def _dot(row: Any, vector: Any) -> Any:
    total = np.float32(0)
    for i in range(row.shape[0]):
        total += row[i] * vector[i]
    return total


@njit(fastmath=_SUMS)  # type: ignore[untyped-decorator]
def _bfloat16_dot(row: Any, vector: Any) -> Any:
    total = np.float32(0)
    for i in range(row.shape[0]):
        total += _float(row[i]) * vector[i]
    return total


@njit  # type: ignore[untyped-decorator]
def _number(score: Any) -> Any:
    """A score that sorting understands."""
    return score if score == score else np.float32(-np.inf)


@njit  # type: ignore[untyped-decorator]
def _float(bits: Any) -> Any:
    """The float32 of a bfloat16's bits."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@njit  # type: ignore[untyped-decorator]
def _rounded(value: Any) -> Any:
    """float32 rounded to bfloat16, ties to even."""
    bits = np.float32(value).view(np.uint32)
    bits += np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return np.uint32(bits & np.uint32(0xFFFF0000)).view(np.float32)
