"""The training loop of an EAGLE-3 drafter.

The drafter reads the target's hidden states and proposes several tokens one after the other (EAGLE-3's training-time
test, arXiv 2503.01840): step k of the unrolling weighs 0.8^k. The loss is over a draft vocabulary (`loss.py`), the
acceptance that is measured on the way is over the whole one. Matrices learn by Muon (Jordan et al., 2024; step sizes as
in arXiv 2502.16982), which needs PyTorch 2.9, and everything else by AdamW.
"""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from acceptance import measure_acceptance, predicted_positions
from dataset import Batch, Text, make_batch, read_texts, text_batches
from loss import DraftRows, draft_loss
from start import first_weights
from torch import Tensor
from torch.nn import functional as F

from outlex.eagle import EagleCheckpoint, EagleConfig
from outlex.errors import InputError
from outlex.formats.eagle_checkpoint import save_eagle
from outlex.metrics import clustered_ratio

if TYPE_CHECKING:
    from outlex.models.language_model import LanguageModel

__all__ = ["Settings", "Training"]

_STEP_DECAY = 0.8  # a later draft position counts only where the ones before it were accepted
_N_COLD = 512  # rows outside of the draft vocabulary that stand for all of them
_MEASURED_STEPS = 4
_N_MEASURED = 64  # held-out texts
_WARM_UP = 50  # steps
_FALLING = 0.25  # of the steps
_MAX_GRADIENT = 1.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides a training run.

    Attributes:
        layers: of the target whose hidden states the drafter reads.
        intermediate_size: of the drafter's MLP.
        n_heads, head_dim: of its attention; keys and values have as many heads as queries.
        rope_theta: of its attention. The larger, the more of a head compares contents at any distance.
        steps: optimizer steps; the learning rate falls in the last quarter of them.
        batch_tokens: tokens of a step, padding included.
        lr: the highest learning rate.
        unroll: draft positions that are trained in the end. It begins with `first_unroll`, and one more joins after
            every 1/unroll of the steps: one position is several times cheaper than four.
        first_unroll: draft positions at the first step.
        hot: size of the draft vocabulary of the loss: the tokens that the texts use most.
        rejection_weight: of the share of rejected drafts in the loss, 0 to 1.
        answers_only: whether laws inside of prompts are left out.
        measure_every: steps between measurements, which are also checkpoints.
        seed: of weights, order and sampled rows.

    Raises:
        InputError: a number out of range.
    """

    layers: tuple[int, ...]
    intermediate_size: int
    n_heads: int
    head_dim: int
    rope_theta: float
    steps: int
    batch_tokens: int
    lr: float
    unroll: int
    first_unroll: int
    hot: int
    rejection_weight: float
    answers_only: bool
    measure_every: int
    seed: int

    def __post_init__(self) -> None:
        for name in (
            "intermediate_size",
            "n_heads",
            "head_dim",
            "rope_theta",
            "steps",
            "batch_tokens",
            "lr",
            "unroll",
            "first_unroll",
            "hot",
            "measure_every",
        ):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive", got=getattr(self, name), next_step=f"give --{name}")
        if not 0 <= self.rejection_weight <= 1:
            raise InputError(
                "rejection_weight is a share",
                got=self.rejection_weight,
                expected="0 to 1",
                next_step="0 learns the law by KL, 1 only the share of accepted drafts",
            )

    def architecture(self) -> dict[str, Any]:
        """What `EagleConfig.for_target` takes."""
        return {
            "feature_layers": self.layers,
            "intermediate_size": self.intermediate_size,
            "n_heads": self.n_heads,
            "n_kv_heads": self.n_heads,
            "head_dim": self.head_dim,
            "rope": {"rope_type": "default", "rope_theta": self.rope_theta},
            "feature_norm": "each",
            "qkv_bias": True,
            "o_bias": True,
        }

    def lr_at(self, step: int) -> float:
        """Learning rate of a step: upwards, level, and in the last quarter down to nothing.

        Unlike on a cosine, a run that is asked for more steps later has lost nothing.
        """
        rising, falling = (step + 1) / _WARM_UP, (self.steps - step) / (_FALLING * self.steps)
        return self.lr * min(1.0, rising, falling)

    def unroll_at(self, step: int) -> int:
        """Draft positions that a step trains."""
        return min(self.unroll, max(self.first_unroll, 1 + step * self.unroll // self.steps))


class Training:
    """A run that can be stopped at any time.

    Args:
        settings: what decides it.
        target: the model; its embedding and head stay as they are.
        runs: folders with features; shards that appear while it trains join at the next epoch.
        out: folder of `state.pt`, `log.jsonl`, and `drafter`, the checkpoint that outlex loads.
        begin_with: `out` of another run, whose weights this one begins with; None begins with closed-form ones.

    Raises:
        InputError: no features, `out` was begun with other settings, or the other run's network has other sizes.
    """

    def __init__(
        self,
        settings: Settings,
        target: LanguageModel,
        *,
        runs: Sequence[Path],
        out: Path,
        begin_with: Path | None = None,
    ) -> None:
        self.settings, self.target, self.runs, self.out = settings, target, runs, out
        self.embedding: Tensor = target.model.get_input_embeddings().weight
        self.head: Tensor = target.model.get_output_embeddings().weight
        self.config = EagleConfig.for_target(target, **settings.architecture())
        self.step, self.epoch, self.n_tokens, self.seconds = 0, 0, 0, 0.0
        self.next_batch = 0
        self.shards = self._shards_there()
        self.hot = torch.empty(0, dtype=torch.int64)
        self._read()
        self.module = first_weights(self.config, target, self.texts, seed=settings.seed)
        matrices = [p for p in self.module.parameters() if p.ndim == 2]
        others = [p for p in self.module.parameters() if p.ndim < 2]
        # steps of the size that AdamW's would have, so that one learning rate serves both
        muon = torch.optim.Muon(matrices, lr=settings.lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        adam = torch.optim.AdamW(others, lr=settings.lr, betas=(0.9, 0.95), weight_decay=0.0)
        self.optimizers: tuple[torch.optim.Optimizer, ...] = (muon, adam)
        self.generator = torch.Generator().manual_seed(settings.seed)
        out.mkdir(parents=True, exist_ok=True)
        if (out / "state.pt").exists():
            self._resume()
        elif begin_with is not None:
            self._take_weights(begin_with)

    def _shards_there(self) -> list[Path]:
        found = sorted(path for run in self.runs for path in run.glob("features-*.safetensors"))
        if not found:
            raise InputError(
                "There are no features to train on",
                got=", ".join(map(str, self.runs)),
                expected="features-*.safetensors",
                next_step="run generate.py and features.py first",
            )
        return found

    def _read(self) -> None:
        """Texts of the shards, this epoch's order, and the draft vocabulary if there is none yet."""
        s, n_rows = self.settings, self.head.shape[0]
        texts = read_texts(self.shards, layers=self.config.feature_layers, width=self.target.hidden_size)
        self.texts = [text for text in texts if not text.is_held_out]
        self.held_out = [text for text in texts if text.is_held_out][:_N_MEASURED]
        if not len(self.hot):
            counts = torch.bincount(torch.cat([text.ids for text in self.texts]).long(), minlength=n_rows)
            self.hot = counts.topk(min(s.hot, n_rows)).indices
        is_cold = torch.ones(n_rows, dtype=torch.bool)
        is_cold[self.hot] = False
        self.cold = is_cold.nonzero().squeeze(1)
        self.hot_rows = self.head[self.hot.to(self.head.device)]
        order = torch.Generator().manual_seed(s.seed + 1000 * (self.epoch + 1))
        self.order = text_batches([len(t.ids) for t in self.texts], n_tokens=s.batch_tokens, generator=order)

    def run(self) -> None:
        """Train until the last step, with a measurement and a checkpoint every now and then."""
        if self.step == 0:
            self._report(loss=float("nan"))
        begun, losses = time.perf_counter(), []
        while self.step < self.settings.steps:
            if self.next_batch >= len(self.order):
                self.epoch, self.next_batch, self.shards = self.epoch + 1, 0, self._shards_there()
                self._read()
            texts: list[Text] = [self.texts[i] for i in self.order[self.next_batch]]
            losses.append(self._train_on(make_batch(texts, answers_only=self.settings.answers_only)))
            self.next_batch, self.step = self.next_batch + 1, self.step + 1
            if self.step % self.settings.measure_every == 0 or self.step == self.settings.steps:
                self.seconds += time.perf_counter() - begun
                measured = self._report(loss=sum(losses) / len(losses))
                self._save()
                self._export(measured)
                begun, losses = time.perf_counter(), []

    def _train_on(self, batch: Batch) -> float:
        s, device = self.settings, self.target.device
        n_steps = s.unroll_at(self.step)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = s.lr_at(self.step)
        rows = self._draft_rows()
        laws, place_of = self._laws(batch)
        n = batch.ids.shape[1] - 1
        ids = F.pad(batch.ids[:, 1:], (0, n_steps - 1)).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            embedded, features = self.embedding[ids].bfloat16(), batch.features[:, :n].to(device)
            unrolled = self.module.unroll(embedded, features, n_steps=n_steps)
        total = torch.zeros((), device=device)
        weights = [_STEP_DECAY**step for step in range(n_steps)]
        for step, states in enumerate(unrolled):
            row, place = predicted_positions(batch, step).nonzero(as_tuple=True)
            wanted = laws[place_of[row, place + 1 + step]]
            loss = draft_loss(states[row, place], wanted, rows, rejection_weight=s.rejection_weight)
            total = total + weights[step] / sum(weights) * loss
        self.module.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), _MAX_GRADIENT)
        for optimizer in self.optimizers:
            optimizer.step()
        self.n_tokens += int(batch.lawful.sum())
        return float(total.detach())

    def _draft_rows(self) -> DraftRows:
        n_cold = len(self.cold)
        if n_cold <= _N_COLD:
            sample, log_weight = self.cold, 0.0
        else:
            sample = self.cold[torch.randint(n_cold, (_N_COLD,), generator=self.generator)]
            log_weight = math.log(n_cold / _N_COLD)
        return DraftRows(hot=self.hot_rows, cold=self.head[sample.to(self.head.device)], log_weight=log_weight)

    def _laws(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """p over the draft vocabulary at the lawful positions [m, n_hot], and where each position's row is [B, n]."""
        lawful = batch.lawful
        last = batch.last[lawful].to(self.head.device, self.head.dtype)
        logits = (last @ self.hot_rows.T).float()
        laws = (logits - batch.log_norms[lawful].to(logits.device).unsqueeze(1)).exp_()
        place_of = torch.zeros(lawful.shape, dtype=torch.int64)
        place_of[lawful] = torch.arange(len(laws))
        return laws.to(torch.bfloat16), place_of

    def _report(self, *, loss: float) -> dict[str, Any]:
        """Measure on the held-out texts, print one line, and append it to the log."""
        measured = measure_acceptance(
            self.module, self.held_out, embedding=self.embedding, head=self.head, n_steps=_MEASURED_STEPS
        )
        line: dict[str, Any] = {
            "step": self.step,
            "epoch": self.epoch,
            "tokens": self.n_tokens,
            "seconds": round(self.seconds, 1),
            "texts": len(self.texts),
            "lr": self.settings.lr_at(self.step),
            "loss": None if math.isnan(loss) else round(loss, 4),
            **{
                name: round(clustered_ratio(*zip(*sums, strict=True)).value, 4)
                for name, sums in measured.items()
                if sums
            },
        }
        text = json.dumps(line)
        print(text, flush=True)
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(text + "\n")
        return line

    def _export(self, measured: dict[str, Any]) -> None:
        """The weights in bfloat16, as `outlex` and speculators load them."""
        provenance = {
            "method": "outlex examples/train_drafter",
            "settings": asdict(self.settings),
            "measured": measured,
            "generation": [
                json.loads(path.read_text("utf-8")) for run in self.runs for path in run.glob("generation.json")
            ],
        }
        folder = self.out / "drafter"
        shutil.rmtree(folder, ignore_errors=True)
        module = copy.deepcopy(self.module).to(torch.bfloat16)
        save_eagle(folder, EagleCheckpoint(module=module), provenance=provenance)

    def _save(self) -> None:
        state = {
            "settings": asdict(self.settings),
            "module": self.module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
            "hot": self.hot,
            "shards": [str(path) for path in self.shards],
            **{name: getattr(self, name) for name in ("step", "epoch", "n_tokens", "seconds", "next_batch")},
        }
        unfinished = self.out / "state.pt.part"
        torch.save(state, unfinished)
        os.replace(unfinished, self.out / "state.pt")

    def _state_of(self, out: Path) -> dict[str, Any]:
        state: dict[str, Any] = torch.load(out / "state.pt", map_location=self.target.device, weights_only=True)
        return state

    def _take_weights(self, other: Path) -> None:
        if not (other / "state.pt").exists():
            raise InputError(
                "There are no weights to begin with",
                got=str(other),
                expected="--out of another run, with its state.pt",
                next_step="leave --begin-with out to begin with closed-form weights",
            )
        its, mine = self._state_of(other)["module"], self.module.state_dict()
        if {name: value.shape for name, value in its.items()} != {name: value.shape for name, value in mine.items()}:
            raise InputError(
                f"The network of {other} has other sizes",
                got=f"fc {list(its['fc.weight'].shape)}, qkv {list(its['qkv_proj.weight'].shape)}",
                expected=f"fc {list(mine['fc.weight'].shape)}, qkv {list(mine['qkv_proj.weight'].shape)}",
                next_step="give the same --layers, --n-heads, --head-dim and --intermediate-size",
            )
        self.module.load_state_dict(its)

    def _resume(self) -> None:
        state = self._state_of(self.out)
        mine = asdict(self.settings)
        # more steps may be asked for later; everything else decides what the weights are
        other = {k: v for k, v in state["settings"].items() if k != "steps" and v != mine[k]}
        if other:
            raise InputError(
                f"{self.out} was begun with other settings",
                got=", ".join(f"{name}={mine[name]}" for name in other),
                expected=", ".join(f"{name}={value}" for name, value in other.items()),
                next_step="go on with the same settings, or choose another --out",
            )
        self.module.load_state_dict(state["module"])
        for optimizer, its_state in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(its_state)
        self.generator.set_state(state["generator"].cpu())
        self.hot = state["hot"].cpu()
        self.shards = [Path(path) for path in state["shards"]]
        for name in ("step", "epoch", "n_tokens", "seconds", "next_batch"):
            setattr(self, name, state[name])
        self._read()
