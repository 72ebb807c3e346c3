"""Forecasts of heads that choose their tokens: at each position, or as they follow the request."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import byte_tokenizer, tiny_pair
from torch import Tensor
from toy_traces import head, random_traces

from outlex import SamplingParams, SpeculativeDecoder, SubVocab
from outlex.calibration.collect import TraceRequest, collect_traces
from outlex.calibration.traces import TraceSet
from outlex.drafters import IndependentDrafter, StoredProposal
from outlex.errors import InputError
from outlex.forecast import StepTimes, forecast, measure_step_times
from outlex.forecast.candidates import Candidate
from outlex.forecast.overlaps import OverlapTable, overlap_table
from outlex.heads import DraftHead, InContextHead, LinearHead
from outlex.metrics import clustered_ratio
from outlex.models.output_head import output_head
from outlex.proposals import DraftScores, Proposal, Tli
from outlex.vocab.shortlist import Shortlist
from outlex.vocab.token_map import TokenMap
from outlex.vocab.tokenizer_facts import facts_of

TEMPERATURES = (0.0, 0.7, 1.0)


class TopHead:
    """The `k` best rows at each position: a compact list for one, the whole width for several."""

    name = "top"
    follows_request = False
    prompt_logits = 0

    def __init__(self, linear: LinearHead, k: int) -> None:
        self.linear, self.k = linear, k
        self.bytes_per_step = 40 * k

    def begin(self, prompt_ids: list[int]) -> None:
        raise AssertionError("a head that follows nothing is told nothing")

    def observe(self, verified_ids: list[int], target_logits: Tensor) -> None:
        raise AssertionError("a head that follows nothing is told nothing")

    def score(self, hidden: Tensor) -> DraftScores:
        logits = self.linear.logits(hidden)
        n = logits.shape[1]
        best = logits.topk(self.k, dim=-1)
        if len(hidden) == 1:
            token_map: Any = Shortlist(best.indices[0], n_target=n)
            return DraftScores(logits=best.values, token_map=token_map, hidden=hidden)
        wide = torch.full_like(logits, -torch.inf).scatter_(-1, best.indices, best.values)
        return DraftScores(logits=wide, token_map=TokenMap.identity(n, n), hidden=hidden)


def table(traces: TraceSet, target: LinearHead, drafter: LinearHead, one: DraftHead, **changes: Any) -> OverlapTable:
    candidates = [
        Candidate(name="untrimmed", n_draft=drafter.n_rows),
        Candidate(name="x", n_draft=1, head=one),
        Candidate(name="few", ids=torch.tensor([3, 5]), n_draft=2),
    ]
    options: dict[str, Any] = {"temperatures": TEMPERATURES, "tokens_per_pass": 3, **changes}
    return overlap_table(
        traces,
        target_head=target,
        drafter_head=drafter,
        candidates=candidates,
        proposal=Tli(),
        on_progress=lambda n, total: None,
        **options,
    )


def check(got: OverlapTable, traces: TraceSet, target: LinearHead, drafter: LinearHead, kept: list[set[int]]) -> None:
    """β, a and oov mass, one position after the other, of a drafter that has the `kept` tokens there."""
    for temperature in TEMPERATURES:
        own = got.cells[1, temperature]
        for i, ids in enumerate(kept):
            chosen = sorted(ids)
            p = target.logits(traces.target_hidden[i]).double()
            q = torch.full_like(p, -torch.inf)
            q[chosen] = drafter.logits(traces.drafter_hidden[i]).double()[chosen]
            if temperature:
                p, q = (p / temperature).softmax(-1), (q / temperature).softmax(-1)
            else:
                p, q = (torch.nn.functional.one_hot(law.argmax(), len(law)).double() for law in (p, q))
            x = int(traces.token_ids[i])
            assert own.beta[i] == pytest.approx(float(torch.minimum(p, q).sum()), abs=2e-6)
            assert own.accept[i] == pytest.approx(min(1.0, float(q[x] / p[x])) if p[x] > 0 else 0.0, abs=1e-5)
            assert own.oov_mass[i] == pytest.approx(max(0.0, 1 - float(p[chosen].sum())), abs=2e-6)
        assert own.n_draft == pytest.approx(sum(map(len, kept)) / len(kept))


@pytest.mark.parametrize("n_rows", [1, 4, 64])
def test_a_head_that_chooses_at_each_position(n_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outlex.forecast.overlaps._ROWS_AT_ONCE", n_rows)
    target, drafter = head(30, 6, seed=1), head(30, 5, seed=2)
    traces = random_traces(target, drafter, [4, 1, 4])
    got = table(traces, target, drafter, TopHead(drafter, 4))
    best = drafter.logits(traces.drafter_hidden).topk(4, dim=-1).indices
    check(got, traces, target, drafter, [set(ids) for ids in best.tolist()])
    assert got.cells[1, 1.0].head_bytes == 160
    assert got.cells[2, 1.0].head_bytes == pytest.approx(drafter.n_bytes * 2 / 30)


def vocab(ids: list[int], n_target: int = 30) -> SubVocab:
    return SubVocab(
        draft_to_target=torch.tensor(ids), n_target=n_target, n_tokenizer=n_target, tokenizer_fingerprint="f"
    )


def followed(
    traces: TraceSet, target: LinearHead, *, block_len: int, top_m: int, prompt_logits: int, static: set[int]
) -> list[set[int]]:
    """What an in-context head that forgets nothing has at each row, from the definition."""
    tops = target.logits(traces.target_hidden).topk(max(1, top_m), dim=-1).indices[:, :top_m].tolist()
    found, row = [], 0
    for index, prompt in enumerate(traces.prompts):
        rows = traces.prompt_rows(index)
        shown = traces.prompt_top[rows][:-1].tolist()
        seen_later = {i for top in shown[max(0, len(shown) - prompt_logits) :] for i in top[:top_m]}
        known = static | set(traces.prompt_ids[rows].tolist())
        for position in range(prompt.n_positions):
            if position and position % block_len == 0:
                known = known | seen_later
                for i in range(row + position - block_len, row + position):
                    known = known | {int(traces.token_ids[i]), *tops[i]}
            found.append(set(known))
        row += prompt.n_positions
    return found


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    n_rows=st.sampled_from([1, 2, 5, 64]),
    block_len=st.sampled_from([1, 2, 3, 4]),
    top_m=st.sampled_from([0, 1, 3]),
    prompt_logits=st.sampled_from([0, 1, 256]),
    seed=st.integers(0, 1000),
)
def test_a_head_that_follows_the_request(
    lengths: list[int], n_rows: int, block_len: int, top_m: int, prompt_logits: int, seed: int
) -> None:
    target, drafter = head(30, 6, seed=seed), head(30, 5, seed=seed + 1)
    traces = random_traces(target, drafter, lengths, seed=seed)
    one = InContextHead(drafter, vocab([3, 11]), n_target=30, top_m=top_m, prompt_logits=prompt_logits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("outlex.forecast.overlaps._ROWS_AT_ONCE", n_rows)
        got = table(traces, target, drafter, one, tokens_per_pass=block_len)
    kept = followed(
        traces, target, block_len=block_len, top_m=top_m, prompt_logits=prompt_logits if top_m else 0, static={3, 11}
    )
    check(got, traces, target, drafter, kept)
    own = got.cells[1, 1.0]
    assert own.head_bytes == pytest.approx(own.n_draft * 5 * 4)
    assert own.head_bytes == pytest.approx(one.mean_bytes_per_step)


def test_traces_hold_so_many_of_the_most_probable_tokens() -> None:
    target, drafter = head(30, 6, seed=1), head(30, 5, seed=2)
    one = InContextHead(drafter, vocab([3]), n_target=30, top_m=9)
    with pytest.raises(InputError, match="top_m=9") as caught:
        table(random_traces(target, drafter, [3]), target, drafter, one)
    assert "smaller top_m" in str(caught.value)


# --- against decoding ---------------------------------------------------------------------------------------

N_PROMPTS, N_TOKENS = 24, 20


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """An in-context head as an artifact hands it out."""

    name: str
    top_m: int = 3
    n_draft: int = 40
    base_name: str = "tiny-drafter"
    base_source: str = "/somewhere/tiny-drafter"
    tokenizer_fingerprint: str = ""
    stored: StoredProposal | None = None

    @property
    def proposal(self) -> Proposal | None:
        return None if self.stored is None else self.stored.proposal

    def describe(self) -> dict[str, Any]:
        return {}

    def head_from(self, full: LinearHead, *, n_target: int) -> DraftHead:
        facts = facts_of(byte_tokenizer())
        order = torch.randperm(256, generator=torch.Generator().manual_seed(3)) + 1
        static = SubVocab(
            draft_to_target=torch.cat([order[: self.n_draft - 1], torch.tensor([0])]),
            n_target=260,
            n_tokenizer=facts.n_entries,
            tokenizer_fingerprint=facts.fingerprint,
        )
        return InContextHead(full, static, n_target=n_target, top_m=self.top_m, prompt_logits=4)

    def head_for(self, base: Any, *, n_target: int) -> DraftHead:
        return self.head_from(output_head(base), n_target=n_target)


def prompt_ids(i: int) -> list[int]:
    ids: list[int] = torch.randint(0, 256, (3 + i % 5,), generator=torch.Generator().manual_seed(i)).tolist()
    return ids


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> TraceSet:
    requests = [TraceRequest(id=f"p{i}", domain="d", prompt_ids=tuple(prompt_ids(i))) for i in range(N_PROMPTS)]
    return collect_traces(*tiny_pair(), requests, Path(tmp_path_factory.mktemp("t")) / "t", max_new_tokens=N_TOKENS)


def made(traces: TraceSet, candidates: list[Any], **changes: Any) -> Any:
    target, drafter = tiny_pair()
    options: dict[str, Any] = {"temperatures": [1.0], "draft_lens": [3], "tokens_per_pass": 2, **changes}
    return forecast(
        traces, target_head=output_head(target), drafter_head=output_head(drafter), candidates=candidates, **options
    )


def test_decoding_does_what_was_forecast(traces: TraceSet) -> None:
    target, drafter = tiny_pair()
    one = Artifact(name="in-context")
    static = replace(one, name="static", top_m=0)
    cell = made(traces, [one]).cell("in-context", temperature=1.0, draft_len=3)
    own = one.head_for(drafter, n_target=260)
    decoder = SpeculativeDecoder(target, IndependentDrafter(drafter, head=own), draft_len=3)
    params = SamplingParams(temperature=1.0)
    runs = [
        [
            decoder.generate(prompt_ids(i), max_new_tokens=N_TOKENS, params=params, seed=1000 * k + i, measure=True)
            for k in range(3)
        ]
        for i in range(N_PROMPTS)
    ]
    measured = clustered_ratio(
        [sum(sum(run.overlaps) for run in each) for each in runs], [sum(run.n_tested for run in each) for each in runs]
    )
    half = math.hypot(cell.acceptance_rate.high - cell.acceptance_rate.value, measured.high - measured.value)
    assert abs(cell.acceptance_rate.value - measured.value) < 1.5 * half
    # and what joins is worth something, or this would prove little
    assert cell.acceptance_rate.value > made(traces, [static]).cells[1].acceptance_rate.value
    assert isinstance(own, InContextHead)
    assert cell.head_bytes == pytest.approx(own.mean_bytes_per_step, rel=0.1)


def test_costs_are_those_of_the_head_by_name(traces: TraceSet) -> None:
    one, other = Artifact(name="in-context", top_m=0), Artifact(name="more", top_m=3)
    times = StepTimes(
        target_pass_s={0: 0.9, 3: 1.0},
        draft_step_s={260: 0.2},
        head_step_s={"in-context": 0.05, "more": 0.5},
        source="test",
    )
    result = made(traces, [one, other], times=times)
    untrimmed, cheap, dear = (result.cell(n, temperature=1.0, draft_len=3) for n in ("untrimmed", "in-context", "more"))
    assert cheap.tokens_per_s > untrimmed.tokens_per_s * cheap.block_efficiency.value / untrimmed.block_efficiency.value
    assert dear.tokens_per_s < untrimmed.tokens_per_s
    assert cheap.n_draft < dear.n_draft
    assert cheap.head_bytes < dear.head_bytes < untrimmed.head_bytes
    # without its time nothing is in seconds, and the note says whose time is missing
    lost = made(traces, [one, other], times=replace(times, head_step_s={"more": 0.5}))
    assert all(cell.tokens_per_s is None for cell in lost.cells)
    assert any("do not reach to in-context:" in note for note in lost.notes)


def test_heads_of_one_name_are_told_apart(traces: TraceSet) -> None:
    result = made(traces, [Artifact(name="a"), Artifact(name="b"), Artifact(name="a", top_m=0)])
    assert list(dict.fromkeys(cell.candidate for cell in result.cells)) == ["untrimmed", "a#1", "b", "a#2"]


def test_blocks_are_at_least_one_token_long(traces: TraceSet) -> None:
    with pytest.raises(InputError, match="0 tokens a pass"):
        made(traces, [], tokens_per_pass=0)


def test_heads_are_timed_as_they_score() -> None:
    target, drafter = tiny_pair()
    scored: list[int] = []

    class Watched(InContextHead):
        def score(self, hidden: Tensor) -> DraftScores:
            scored.append(self.tokens.n_used)
            return super().score(hidden)

    facts = facts_of(byte_tokenizer())
    static = SubVocab(
        draft_to_target=torch.tensor([0]), n_target=260, n_tokenizer=257, tokenizer_fingerprint=facts.fingerprint
    )
    own = Watched(output_head(drafter), static, n_target=260)
    got = measure_step_times(target, drafter, sizes=[30], draft_lens=[2], named={"mine": own}, repeats=2)
    assert set(got.head_step_s) == {"mine"}
    assert got.head_step("mine") == got.head_step_s["mine"] > 0
    assert got.head_step("other") is None
    assert len(scored) == 2 * 3  # sampled and greedy: a turn to warm up, and two
    assert min(scored) > 50  # the prompt's tokens are there
