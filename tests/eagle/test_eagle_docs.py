"""The worked block of docs/eagle.md, run as it stands there."""

from __future__ import annotations

from pathlib import Path

import torch
from eagle_builders import tiny_eagle
from scripted import Scripted
from tiny_models import tiny_model
from torch import Tensor

from outlex import SamplingParams, Tli
from outlex.decode.block import BlockDecoder
from outlex.decode.stopwatch import Stopwatch
from outlex.drafters import EagleDrafter
from outlex.models.runner import TargetRunner
from outlex.models.target import TargetOutput

NAMES = {10: "a", 11: "b", 12: "c", 13: "x", 21: "d1", 22: "d2", 23: "d3", 14: "y", 24: "d4", 25: "d5", 26: "d6"}
NAMES |= {15: "z", 27: "d7", 28: "d8", 29: "d9", 16: "w"}


class Recorder:
    """Rows as the table has them, from a target and a drafter that work as always."""

    def __init__(self) -> None:
        loaded = tiny_model(n_layers=4)
        self.target, self.drafter = TargetRunner(loaded), EagleDrafter(tiny_eagle(loaded), loaded)
        self.rows: list[str] = []
        self.states: list[Tensor] = []  # of every token the target has read, by position
        forward, rollback = self.target.forward, self.target.rollback
        advance, step = self.drafter.advance, self.drafter.step

        def forwarded(ids: Tensor, *, n_logits: int, feature_layers: tuple[int, ...] = ()) -> TargetOutput:
            out = forward(ids, n_logits=n_logits, feature_layers=feature_layers)
            assert out.features is not None
            self.states += list(out.features)
            self._row("target reads", ids)
            return out

        def rolled_back(length: int) -> None:
            before = len(self.states)
            del self.states[length:]
            rollback(length)
            if before > 3:  # the first pass has nothing to take back
                self._row("roll back", torch.tensor([], dtype=torch.int64))

        def advanced(verified_ids: Tensor, *, n_accepted: int, features: Tensor | None) -> Tensor:
            assert features is not None
            hidden = advance(verified_ids, n_accepted=n_accepted, features=features)
            places = [next(i for i, f in enumerate(self.states) if torch.equal(f, own)) for own in features]
            self._row("`advance`", verified_ids, " ".join(f"f{i}" for i in places))
            return hidden

        def stepped(draft_id: Tensor) -> Tensor:
            hidden = step(draft_id)
            self._row("`step`", draft_id, "g")
            return hidden

        self.target.forward, self.target.rollback = forwarded, rolled_back  # type: ignore[method-assign]
        self.drafter.advance, self.drafter.step = advanced, stepped  # type: ignore[method-assign]

    def _row(self, call: str, ids: Tensor, states: str = "") -> None:
        tokens = " ".join(NAMES[i] for i in ids.tolist())
        cells = (call, tokens, states, str(self.drafter.runner.length), str(len(self.states)))
        self.rows.append("|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|")


def test_the_worked_block_is_what_happens() -> None:
    recorder = Recorder()
    with torch.inference_mode():
        blocks = BlockDecoder(
            target=recorder.target,
            drafter=recorder.drafter,
            proposal=Tli(),
            draft_len=3,
            params=SamplingParams(),
            randomness=Scripted([13, 21, 22, 23, 14, 24, 25, 26, 15, 27, 28, 29, 16], [1, 3, 0]),
            prompt_ids=[10, 11, 12],
            clock=Stopwatch(torch.device("cpu"), synchronize=False),
            measure=False,
        )
        for _ in range(4):
            blocks.next_block(9)
    text = (Path(__file__).resolve().parents[2] / "docs" / "eagle.md").read_text(encoding="utf-8")
    table = [
        line
        for line in text.splitlines()
        if line.startswith(("| target reads", "| roll back", "| `advance`", "| `step`"))
    ]
    assert len(table) == 12
    assert recorder.rows[: len(table)] == table
