"""What all experiments start from: traces, the two heads, a ranking, and draft heads of any tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from outlex.calibration.target_probs import target_probs
from outlex.errors import InputError
from outlex.heads.linear import StaticHead
from outlex.proposals import DraftScores, HotLaw, Tli
from outlex.sampling import SamplingParams, probabilities
from outlex.tuning.positions import scored_positions
from outlex.tuning.recipes import Recipe, recipes_of
from outlex.tuning.run import compare
from outlex.tuning.settings import TuneSettings, split_prompts
from outlex.vocab.token_map import TokenMap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outlex.calibration.head_files import Translation
    from outlex.calibration.traces import TraceSet
    from outlex.heads.linear import LinearHead
    from outlex.tuning.evidence import Evidence
    from outlex.tuning.result import Comparison

__all__ = ["Setup"]

OnProgress = Callable[[int, int, str], None]
Parts = tuple["TraceSet", "TraceSet", "TraceSet"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """One pair and what to run on it.

    Attributes:
        traces: of the pair.
        target_head, drafter_head: whole, on one device.
        translation: to the tokens of a target with another tokenizer; None for one tokenizer.
        spellings: bytes of each token of the target; None leaves the prefix prior out.
        ranking: int64, tokens by importance, best first; None ranks by the target's mean probability on the prompts
            that proposals are fitted to.
        sizes: rows of draft heads, each at least 1.
        family: proposals to try, as `outlex fit` takes them.
        temperature: of both laws, above 0.
        seed: of splits and of anything random.
        on_progress: called with what is done, all of it, and what comes next.

    Raises:
        InputError: values out of range, or too few prompts.
        MismatchError: the heads are not those of the traces.
    """

    traces: TraceSet
    target_head: LinearHead
    drafter_head: LinearHead
    translation: Translation | None = field(default=None, repr=False)
    spellings: Sequence[bytes | None] | None = field(default=None, repr=False)
    ranking: Tensor | None = field(default=None, repr=False)
    sizes: tuple[int, ...]
    family: str = "auto"
    temperature: float = 1.0
    seed: int = 0
    on_progress: OnProgress = field(default=lambda n_done, n_total, label: None, repr=False)

    def __post_init__(self) -> None:
        TuneSettings(family=self.family, temperatures=(self.temperature,), seed=self.seed)
        # with another tokenizer tokens are cold even if no row was pruned
        most = self.n_shared - (self.shared is None)
        if self.temperature == 0:
            raise InputError(
                "Experiments are about sampled drafting",
                got="temperature 0",
                expected="a temperature above 0",
                next_step="`outlex experiment greedy` compares with greedy drafting",
            )
        once = len(set(self.sizes)) == len(self.sizes) > 0
        if not once or not all(1 <= size <= most for size in self.sizes):
            raise InputError(
                "These sizes cannot be tried",
                got=list(self.sizes),
                expected=f"different numbers from 1 to {most}; the two heads share {self.n_shared} tokens",
                next_step="change --sizes",
            )
        self.traces.check_heads(self.target_head, self.drafter_head, cross_tokenizer=self.shared is not None)

    @property
    def shared(self) -> TokenMap | None:
        """Drafter rows to tokens of a target with another tokenizer."""
        return None if self.translation is None else self.translation.shared

    @cached_property
    def n_shared(self) -> int:
        """Tokens that both heads have."""
        if self.shared is not None:
            return int((self.shared.draft_to_target >= 0).sum())
        return min(self.target_head.n_rows, self.drafter_head.n_rows)

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(temperature=self.temperature)

    @cached_property
    def parts(self) -> Parts:
        """Prompts to fit to, to calibrate on, to compare on."""
        return split_prompts(self.traces, TuneSettings(seed=self.seed))

    @cached_property
    def order(self) -> Tensor:
        """Tokens by importance, as ids that both heads have."""
        ranking = self.ranking
        if ranking is None:
            ranking = self.order_of(self.parts[0])
        return self._both_have(ranking).to(self.target_head.weight.device)

    def order_of(self, traces: TraceSet) -> Tensor:
        """Tokens that both heads have, by the target's mean probability on some traces."""
        mean = target_probs(traces, self.target_head, temperature=self.temperature).mean
        return self._both_have(mean.argsort(descending=True, stable=True))

    def _both_have(self, ids: Tensor) -> Tensor:
        """Padding left out, as a list may not name it."""
        if self.shared is not None:
            return ids[self.shared.to_draft(ids.to(self.shared.device)).to(ids.device) >= 0]
        return ids[ids < min(self.n_shared, self.traces.header.n_tokenizer)]

    def rows_of(self, ids: Tensor) -> Tensor:
        """Rows of the drafter's head that stand for these tokens."""
        return ids if self.shared is None else self.shared.to_draft(ids)

    def head(self, ids: Tensor) -> StaticHead:
        """The drafter's head with these rows; with all tokens that the two share it is the whole head."""
        if self.shared is not None and len(ids) == self.n_shared:
            return StaticHead(self.drafter_head, self.shared, name="untrimmed")
        token_map = TokenMap(ids, n_draft=len(ids), n_target=self.target_head.n_rows)
        return StaticHead(self.drafter_head.rows(self.rows_of(ids)), token_map, name=f"trimmed-{len(ids)}")

    def whole_law(self, hidden: Tensor) -> Tensor:
        """What the drafter's whole head proposes: hidden [n, d] -> [n, n_target]."""
        shared = self.shared or TokenMap.identity(self.drafter_head.n_rows, self.target_head.n_rows)
        scores = DraftScores(logits=self.drafter_head.logits(hidden), token_map=shared.to(hidden.device), hidden=hidden)
        return Tli().law(scores, self.params).dense()

    def compared(
        self,
        ids: Tensor,
        *,
        parts: Parts | None = None,
        recipes: Callable[[Evidence], Sequence[Recipe]] | None = None,
    ) -> Comparison:
        """`outlex.tuning.compare` for a draft head of these tokens."""
        return compare(
            {self.temperature: parts or self.parts},
            self.head(ids),
            static_ids=ids,
            target_head=self.target_head,
            drafter_head=self.drafter_head,
            shared=self.shared,
            # a head of shared tokens alone has no column that the target would spell otherwise
            first_ids=self.translation.first_ids if self.translation and len(ids) == self.n_shared else None,
            recipes=recipes or (lambda evidence: recipes_of(evidence, self.family)),
            spellings=self.spellings,
            on_progress=self.on_progress,
        )

    @torch.inference_mode()
    def laws(self, ids: Tensor, traces: TraceSet) -> Iterator[tuple[DraftScores, HotLaw, Tensor]]:
        """Scores, q' and p [n, n_target] of a draft head of these tokens at all positions, a few at a time."""
        tell = self.on_progress
        for _, scores, logits in scored_positions(
            traces, self.head(ids), target_head=self.target_head, on_progress=lambda n, m: tell(n, m, "both laws")
        ):
            yield scores, Tli().law(scores, self.params), probabilities(logits, self.params)

    def config(self) -> dict[str, Any]:
        """JSON values."""
        header, (fit, calibrate, held_out) = self.traces.header, self.parts
        return {
            "target": header.target.name,
            "drafter": header.drafter.name,
            "n_target": self.target_head.n_rows,
            "n_shared": self.n_shared,
            "cross_tokenizer": self.shared is not None,
            "temperature": self.temperature,
            "text_temperature": self.traces.temperature,
            "sizes": list(self.sizes),
            "family": self.family,
            "seed": self.seed,
            "ranking": "target's mean probability on the prompts fitted to" if self.ranking is None else "given",
            "prompts": {
                name: {"prompts": len(part.prompts), "positions": len(part)}
                for name, part in (("fit", fit), ("calibrate", calibrate), ("held_out", held_out))
            },
        }
