"""What a token trace records is what decoding was decided by, and recording changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli_builders import json_of, run

from outlex.decode.block import BlockDecoder
from outlex.decode.stopwatch import Stopwatch
from outlex.decode.token_trace import TokenTrace
from outlex.proposals import Tli
from outlex.randomness import GeneratorRandomness
from outlex.report import read_results
from outlex.sampling import SamplingParams
from outlex.testing import TableDrafter, TableHead, TableTarget
from outlex.vocab.token_map import TokenMap

# the worked example of docs/walkthrough.md: c has no row in the draft head
P, Q = [0.5, 0.2, 0.3], [0.4, 0.6]


def blocks(n_blocks: int, trace: TokenTrace | None, *, drafts: bool = True) -> list[tuple[int, ...]]:
    p, q = torch.tensor(P).double().log(), torch.tensor(Q).double().log()
    head = TableHead(TokenMap(torch.tensor([0, 1]), n_draft=2, n_target=3))
    decoder = BlockDecoder(
        target=TableTarget(lambda context: p, n_target=3),
        drafter=TableDrafter(lambda context: q, head) if drafts else None,
        proposal=Tli(),
        draft_len=2,
        params=SamplingParams(),
        randomness=GeneratorRandomness(torch.Generator().manual_seed(5)),
        prompt_ids=[0],
        clock=Stopwatch(torch.device("cpu"), synchronize=False),
        measure=False,
        observer=trace,
    )
    return [decoder.next_block(3).token_ids for _ in range(n_blocks)]


def numbers_of(*entries: tuple[int, float, float | None]) -> list[float]:
    return [number for entry in entries for number in entry if number is not None]


def letters(ids: list[int], *, skip_special: bool = True) -> str:
    del skip_special
    return "".join("abc"[i] for i in ids)


def test_the_trace_has_the_laws_of_the_worked_example() -> None:
    trace = TokenTrace()
    emitted = blocks(200, trace)
    assert [token.token_id for token in trace.tokens] == [i for block in emitted for i in block]
    assert {token.kind for token in trace.tokens} == {"accepted", "recovered", "bonus"}
    for token in trace.tokens:
        assert token.p == pytest.approx(P[token.token_id])
        assert token.in_draft is (token.token_id != 2)
        assert [i for i, _, _ in token.top_p] == [0, 2, 1]
        if token.kind == "bonus":
            assert (token.q, token.beta, token.draft, token.top_q) == (None, None, None, ())
            continue
        assert token.q == pytest.approx([*Q, 0.0][token.token_id])
        assert token.beta == pytest.approx(0.6)
        assert numbers_of(*token.top_q) == pytest.approx([1, 0.2, 0.6, 0, 0.5, 0.4])
        if token.kind == "recovered":  # only b is ever rejected, and never comes back in its own place
            assert token.draft is not None
            assert numbers_of(token.draft) == pytest.approx([1, 0.2, 0.6])
            assert token.token_id != 1
        else:
            assert token.draft is None
            assert token.token_id != 2  # TLI never proposes it


def test_recording_draws_nothing_and_changes_nothing() -> None:
    assert blocks(50, TokenTrace()) == blocks(50, None)


def test_without_a_drafter_the_target_alone_is_recorded() -> None:
    trace = TokenTrace(n_top=2)
    blocks(5, trace, drafts=False)
    assert {(token.kind, token.q, token.in_draft, len(token.top_p)) for token in trace.tokens} == {
        ("bonus", None, None, 2)
    }


def test_json_values_are_cut_to_the_text_and_spell_the_tokens() -> None:
    trace = TokenTrace()
    blocks(20, trace)
    values = trace.to_json(7, decode=letters)
    assert "".join(value["text"] for value in values) == letters([token.token_id for token in trace.tokens[:7]])
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert all(
        value["top_p"][0] == {"token_id": 0, "piece": "a", "p": 0.5, "q": value["top_p"][0]["q"]} for value in values
    )


def test_generate_writes_a_trace_that_the_report_shows(models: Path, trimmed: Path, tmp_path: Path) -> None:
    path = tmp_path / "in" / "trace.json"
    path.parent.mkdir()
    command = ("generate", "--target", models / "target", "--trimmed", trimmed, "--drafter", models / "drafter")
    sampled = ("-p", "/the mill", "--temperature", 1, "--seed", 2, "--max-new-tokens", 24, "--dtype", "float32")
    plain = json_of(run(*command, *sampled, "--threads", 1, "--json"))
    told = json_of(run(*command, *sampled, "--threads", 1, "--json", "--trace", path))
    assert plain["tokens"] is None
    assert told["token_ids"] == plain["token_ids"]  # the same draws
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["prompt"] == "/the mill"  # a text, not a path to be shortened
    assert written["target"] == "…/target"
    assert [token["token_id"] for token in written["tokens"]] == told["token_ids"]
    n_accepted = sum(token["kind"] == "accepted" for token in written["tokens"])
    assert n_accepted == told["stats"]["n_accepted"]
    betas = [token["beta"] for token in written["tokens"] if token["beta"] is not None]
    assert len(betas) == told["stats"]["n_tested"]
    (section,) = read_results(path.parent).sections
    assert [figure.title for figure in section.figures][:2] == [
        "The text, token by token",
        "How probable acceptance was",
    ]


def test_a_trace_that_cannot_be_written_is_refused_before_anything_is_loaded(models: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere" / "trace.json"):
        result = run("generate", "--target", "no-such-model", "-p", "x", "--trace", path)
        assert result.exit_code == 2
        assert "--trace" in result.stderr
