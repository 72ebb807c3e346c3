"""Heads that are one matrix: the drafter's own, whole or trimmed to a sub-vocabulary.

logits = W h + b            then · scale, then softcap · tanh(logits / softcap), where the model has them
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from outlex.errors import InputError, MismatchError
from outlex.proposals.base import DraftScores
from outlex.vocab.sub_vocab import SubVocab
from outlex.vocab.token_map import TokenMap

__all__ = ["FullHead", "LinearHead", "StaticHead", "TrimmedHead", "linear", "trim_head"]

_ROWS_AT_ONCE = 8192


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """W x + b as `torch.nn.functional.linear`, quicker for the one row of a draft step.

    On a CPU a product of a bfloat16 matrix with one vector takes a quarter less time through `mv`, at every size from
    576 × 576 to 151,936 × 896, and rounds the same; float32 makes no difference (torch 2.13, two cores).

    Args:
        x: [..., d].
        weight: [m, d], of the same dtype.
        bias: [m] or None.

    Returns:
        [..., m].
    """
    # dtypes differ under autocast only, where F.linear knows what to do
    if x.numel() == x.shape[-1] and x.dtype == weight.dtype == torch.bfloat16 and x.device.type == "cpu":
        row = x.reshape(-1)
        out = torch.mv(weight, row) if bias is None else torch.addmv(bias, weight, row)
        return out.view(*x.shape[:-1], -1)
    return F.linear(x, weight, bias)


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearHead:
    """The weights of an LM head and what the model does to its output.

    Attributes:
        weight: [n_rows, d].
        bias: [n_rows] or None.
        scale: logits are multiplied by it (Granite, Cohere); 1 is none.
        softcap: logits are squashed to (-softcap, softcap) (Gemma 2); 0 is none.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float = 0.0

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or not self.weight.is_floating_point():
            raise InputError(
                "This is not the weight of an LM head",
                got=f"{self.weight.dtype} of shape {list(self.weight.shape)}",
                expected="a floating-point matrix [rows, hidden size]",
                next_step="quantised heads cannot be sliced; load the drafter without quantisation",
            )
        if self.bias is not None and self.bias.shape != self.weight.shape[:1]:
            raise MismatchError(
                "The head's bias does not fit its weight", got=list(self.bias.shape), expected=[self.n_rows]
            )

    @property
    def n_rows(self) -> int:
        return self.weight.shape[0]

    @property
    def n_bytes(self) -> int:
        bias = 0 if self.bias is None else self.bias.nbytes
        return self.weight.nbytes + bias

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [n, d] -> logits [n, n_rows]."""
        return self.finished(linear(hidden, self.weight, self.bias))

    def finished(self, logits: Tensor) -> Tensor:
        """What follows W h + b."""
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of weights, bias and what follows them; everything is read once, and must not change then.

        Weights count as bfloat16, so that a model loaded in bfloat16 and the same one loaded in float32 agree.
        """
        digest = hashlib.sha256(json.dumps([self.scale, self.softcap, self.bias is not None]).encode())
        for tensor in (self.weight, self.bias):
            if tensor is not None:
                for rows in torch.split(tensor, _ROWS_AT_ONCE):
                    rows = rows.detach().cpu().to(torch.bfloat16).contiguous()
                    digest.update(rows.view(torch.int16).numpy().tobytes())
        return digest.hexdigest()

    def rows(self, ids: Tensor) -> LinearHead:
        """A copy of the given rows, int64 [k]: their weights are contiguous, the full matrix is not kept alive."""
        # many times quicker than weight[ids] on a CPU
        bias = None if self.bias is None else self.bias.index_select(0, ids)
        return LinearHead(weight=self.weight.index_select(0, ids), bias=bias, scale=self.scale, softcap=self.softcap)


class StaticHead:
    """One matrix and one map, the same for every request."""

    follows_request = False
    prompt_logits = 0

    def __init__(self, linear: LinearHead, token_map: TokenMap, *, name: str) -> None:
        if linear.n_rows != token_map.n_draft:
            raise MismatchError(
                "The head's rows and the token map do not fit",
                got=f"{linear.n_rows} rows",
                expected=f"{token_map.n_draft} rows, one a draft token",
            )
        if token_map.known is not None and not bool(token_map.known.any()):
            raise MismatchError(
                "No row of the draft head stands for a token of the target",
                expected="at least one shared token",
                next_step="check that the map was made for this pair",
            )
        self.linear = linear
        self.token_map = token_map
        self.name = name

    @property
    def bytes_per_step(self) -> int:
        return self.linear.n_bytes

    def begin(self, prompt_ids: list[int]) -> None:
        del prompt_ids

    def observe(self, verified_ids: list[int], target_logits: Tensor) -> None:
        del verified_ids, target_logits

    def score(self, hidden: Tensor) -> DraftScores:
        return DraftScores(logits=self.linear.logits(hidden), token_map=self.token_map, hidden=hidden)


class FullHead(StaticHead):
    """The drafter's own head, every row of it.

    Args:
        linear: the drafter's LM head.
        n_target: rows of the target's head. Models with one tokenizer may pad to different widths (151,936 and
            152,064): rows the target does not have map to -1.
    """

    def __init__(self, linear: LinearHead, *, n_target: int) -> None:
        token_map = TokenMap.identity(linear.n_rows, n_target).to(linear.weight.device)
        super().__init__(linear, token_map, name="untrimmed")


class TrimmedHead(StaticHead):
    """The rows of a sub-vocabulary (FR-Spec, arXiv 2502.14856; VocabTrim, arXiv 2506.22694).

    Args:
        linear: the kept rows, in the order of `vocab.draft_to_target`.
        vocab: the sub-vocabulary.
    """

    def __init__(self, linear: LinearHead, vocab: SubVocab) -> None:
        super().__init__(linear, vocab.token_map(linear.weight.device), name=f"trimmed-{vocab.n_draft}")
        self.vocab = vocab


def trim_head(linear: LinearHead, vocab: SubVocab) -> TrimmedHead:
    """Slice the rows of a sub-vocabulary out of a full head that has the same tokenizer.

    Raises:
        MismatchError: the sub-vocabulary names a row the head does not have.
    """
    highest = int(vocab.draft_to_target.max())
    if highest >= linear.n_rows:
        raise MismatchError(
            "The sub-vocabulary names rows that this head does not have",
            got=f"token id {highest}",
            expected=f"ids below {linear.n_rows}",
            next_step="check that the map was made for this drafter's tokenizer",
        )
    return TrimmedHead(linear.rows(vocab.draft_to_target.to(linear.weight.device)), vocab)
