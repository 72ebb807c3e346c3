"""The kernels of `numba_rows`, in Numba. Importing this needs Numba.

Every `n_threads`-th piece of work is a thread's, so that hot and cold rows spread evenly; the pieces, and with them
what is computed, are the same for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from outlex.heads.numba_vectors import GROUP, fetch, group_sums, row_sum, to_levels

__all__ = ["BLOCK_ROWS", "CHUNKS", "shortlist"]

BLOCK_ROWS = 512  # rows that a thread scores in one go
CHUNKS = 64  # pieces of the second stage's work
_SAMPLED = 16  # one group of scores in so many tells where the threshold of the candidates lies
_AHEAD = 8  # rows; memory is asked for them that much earlier than they are needed
_SUMS = {"contract", "reassoc"}  # fused multiply-adds, in any order; NaN and infinity keep their meaning


@njit(parallel=True, nogil=True, cache=True)  # type: ignore[untyped-decorator]
def shortlist(
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
    weight: Any,
    z: Any,
    levels: Any,
    turned: Any,
    turned_levels: Any,
    steps: Any,
    scores: Any,
    tops: Any,
    rows: Any,
    second: Any,
    counts: Any,
    left_out: Any,
    n_candidates: int,
    ids: Any,
    n_given: int,
    found: Any,
    n_threads: int,
) -> None:
    """Fill `ids` behind the `n_given` first with the best rows', and `found` with the head's products for all of them.

    `rows`, `second` and `counts` are of chunks: every 64th block is a chunk's.
    """
    centred = _centred(state, mean)
    for thread in prange(n_threads):
        for i in range(thread, z.shape[0], n_threads):
            z[i] = _rounded(_bfloat16_dot(basis[i], centred))
    step = to_levels(z[: levels.shape[0]], levels)
    _turn(z, rotations, ranks, turned, turned_levels, steps)
    for thread in prange(n_threads):
        for block in range(thread, blocks.shape[0], n_threads):
            _score(blocks[block], codes, scales, offsets, turned, turned_levels, steps, scores, tops)
    best = ids[n_given:]
    sample = _sampled(scores)
    threshold = _level_of(sample, min(sample.shape[0], max(1, n_candidates // _SAMPLED)))
    for _ in range(2):
        for thread in prange(n_threads):
            for chunk in range(thread, CHUNKS, n_threads):
                n = 0
                for block in range(chunk, blocks.shape[0], CHUNKS):
                    n += _above(blocks[block], scores, tops, threshold, rows[chunk, n:])
                if left_out.shape[0]:
                    n = _without(rows[chunk, :n], order, left_out)
                _second_scores(fine, rows[chunk, :n], levels, step, second[chunk])
                counts[chunk] = n
        if counts.sum() >= best.shape[0]:
            break
        # the sample misled; among so many there are enough that are not left out
        threshold = _level_of(scores, max(n_candidates, best.shape[0] + left_out.sum()))
    _pick(rows, second, counts, order, best)
    for thread in prange(n_threads):
        _products(weight, ids, state, found, thread, n_threads)


@njit  # type: ignore[untyped-decorator]
def _products(weight: Any, ids: Any, state: Any, found: Any, thread: int, n_threads: int) -> None:
    """Of every `n_threads`-th row."""
    n, width = found.shape[0], weight.shape[1]
    for i in range(thread, n, n_threads):
        if i + n_threads < n:
            for at in range(0, width, 32):
                fetch(weight[ids[i + n_threads]], at)
        found[i] = _bfloat16_dot(weight[ids[i]], state)


@njit  # type: ignore[untyped-decorator]
def _centred(state: Any, mean: Any) -> Any:
    centred = np.empty(mean.shape[0], np.float32)
    for i in range(mean.shape[0]):
        centred[i] = _rounded(state[i] - mean[i])
    return centred


@njit  # type: ignore[untyped-decorator]
def _turn(z: Any, rotations: Any, ranks: Any, turned: Any, levels: Any, steps: Any) -> None:
    """z' = R z + 1 / (m + 1) for each tier, one after the other."""
    first, start = 0, 0
    for tier in range(ranks.shape[0]):
        rank = ranks[tier]
        own = turned[first : first + rank + 1]
        for i in range(rank + 1):
            dot = _dot(rotations[start : start + rank], z[:rank])
            own[i] = _rounded(dot + np.float32(1) / np.float32(rank + 1))
            start += rank
        steps[tier] = to_levels(own, levels[first : first + rank + 1])
        first += rank + 1


@njit  # type: ignore[untyped-decorator]
def _score(
    block: Any,
    codes: Any,
    scales: Any,
    offsets: Any,
    turned: Any,
    turned_levels: Any,
    steps: Any,
    scores: Any,
    tops: Any,
) -> None:
    """First scores of a block, scale · Σ (code − 8) z' + offset · Σ z', and the best of every group."""
    start, n_groups, width, z_start, tier, slot = block[0], block[1], block[2], block[3], block[4], block[5]
    levels = turned_levels[z_start : z_start + width]
    z_sum = turned[z_start : z_start + width].sum()
    zero = np.int32(8) * np.int32(levels.sum())
    sums = np.empty(GROUP, np.int32)
    for _ in range(n_groups):
        group_sums(codes[start : start + width * (GROUP // 2)], levels, sums)
        own = slice(slot, slot + GROUP)
        tops[slot // GROUP] = _finish(sums, zero, steps[tier], scales[own], offsets[own], z_sum, scores[own])
        start += width * (GROUP // 2)
        slot += GROUP


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
def _finish(sums: Any, zero: Any, step: Any, scales: Any, offsets: Any, z_sum: Any, scores: Any) -> Any:
    best = np.float32(-np.inf)
    for i in range(GROUP):
        score = _number(_float(scales[i]) * (step * np.float32(sums[i] - zero)) + _float(offsets[i]) * z_sum)
        scores[i] = score
        best = max(best, score)
    return best


@njit  # type: ignore[untyped-decorator]
def _above(block: Any, scores: Any, tops: Any, threshold: Any, rows: Any) -> Any:
    slot, first_row, n_rows = block[5], block[6], block[7]
    n = 0
    for first in range(0, n_rows, GROUP):
        if tops[(slot + first) // GROUP] >= threshold:
            for i in range(first, min(first + GROUP, n_rows)):
                rows[n] = first_row + i  # written over unless it stays
                n += scores[slot + i] >= threshold
    return n


@njit  # type: ignore[untyped-decorator]
def _without(rows: Any, order: Any, left_out: Any) -> Any:
    n = 0
    for row in rows:
        rows[n] = row
        n += not left_out[order[row]]
    return n


@njit  # type: ignore[untyped-decorator]
def _second_scores(fine: Any, rows: Any, levels: Any, step: Any, second: Any) -> None:
    """scale · Σ code z + offset."""
    n, width, rank = rows.shape[0], fine.shape[1], levels.shape[0]
    for i in range(n):
        if i + _AHEAD < n:
            for at in range(0, width, 64):
                fetch(fine[rows[i + _AHEAD]], at)
        row = fine[rows[i]]
        pair = row[rank:].view(np.uint16)
        second[i] = _number(_float(pair[0]) * (step * row_sum(row, levels)) + _float(pair[1]))


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
