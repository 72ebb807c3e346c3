"""Traces: what is collected, resumed, loaded and refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import byte_tokenizer, tiny_model, tiny_pair

from outlex.atomic import replace_file
from outlex.calibration import collect
from outlex.calibration.batch_sampling import sample_batch
from outlex.calibration.collect import TraceRequest, collect_traces
from outlex.calibration.head_files import load_head
from outlex.calibration.target_probs import target_probs
from outlex.calibration.trace_files import add_shard
from outlex.calibration.trace_records import TracedModel
from outlex.calibration.traces import TraceSet
from outlex.errors import ArtifactError, InputError, MismatchError, NumericalError, OutlexError
from outlex.models import LanguageModel
from outlex.models.output_head import output_head
from outlex.randomness import inverse_cdf
from outlex.sampling import SamplingParams, probabilities

TEXTS = ["the river", "a", "bakers bake bread for the town", "who counts?", "lights on the other shore", "mill", "it"]


def requests(n: int = 5, *, responses: bool = False) -> list[TraceRequest]:
    tokenizer = byte_tokenizer()
    return [
        TraceRequest(
            id=f"p{i}",
            domain="even" if i % 2 == 0 else "odd",
            prompt_ids=tuple(tokenizer(text)["input_ids"]),
            response_ids=tuple(tokenizer(TEXTS[-1 - i])["input_ids"]) if responses else None,
        )
        for i, text in enumerate(TEXTS[:n])
    ]


def trace(directory: Path, n: int = 5, **options: Any) -> TraceSet:
    return collect_traces(*tiny_pair(), requests(n), directory, **{"max_new_tokens": 12, "batch_size": 2, **options})


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("traces") / "t"
    trace(directory)
    return directory


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gemma3_text", "mistral"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_batch_samples_what_each_prompt_would_alone(family: str, temperature: float) -> None:
    window: dict[str, Any] = {"sliding_window": 8} if family in {"gemma2", "gemma3_text", "mistral"} else {}
    model = tiny_model(name="t", seed=4, family=family, n_layers=3, **window)
    prompts = [list(request.prompt_ids) for request in requests(5)]
    uniforms = torch.rand(5, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    params = SamplingParams(temperature=temperature)
    together = sample_batch(model, prompts, uniforms=uniforms, params=params, stop_ids=model.stop_ids)
    head, body = output_head(model), model.model.get_decoder()
    for prompt, own, response in zip(prompts, uniforms, together, strict=True):
        ids = list(prompt)
        for u, token_id in zip(own, response, strict=False):
            hidden = body(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0, -1:]
            assert int(inverse_cdf(probabilities(head.logits(hidden), params), u.view(1))) == token_id
            ids.append(token_id)
        assert len(response) == 20 or response[-1] in model.stop_ids


def test_rows_are_the_states_before_each_token(traced: Path) -> None:
    target, drafter = tiny_pair()
    traces = TraceSet.load(traced)
    assert [p.id for p in sorted(traces.prompts, key=lambda p: p.id)] == ["p0", "p1", "p2", "p3", "p4"]
    by_id = {request.id: request for request in requests()}
    for index, prompt in enumerate(traces.prompts):
        rows = traces.prompt_index == index
        response = traces.token_ids[rows].tolist()
        text = torch.tensor([[*by_id[prompt.id].prompt_ids, *response]])
        for model, hidden in ((target, traces.target_hidden), (drafter, traces.drafter_hidden)):
            logits = model.model(input_ids=text, use_cache=False).logits[0, prompt.n_prompt - 1 : -1]
            torch.testing.assert_close(output_head(model).logits(hidden[rows]), logits, rtol=1e-4, atol=1e-4)
    traces.check_pair(target, drafter)


@pytest.mark.parametrize("n_rows", [3, 64])
def test_prompts_come_with_what_the_target_expects_after_each_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_rows: int
) -> None:
    monkeypatch.setattr(collect, "_ROWS_AT_ONCE", n_rows)
    traces = trace(tmp_path / "t")
    target = tiny_pair()[0]
    by_id = {request.id: request for request in requests()}
    assert (traces.prompt_ids.dtype, traces.prompt_top.dtype) == (torch.int32, torch.int32)
    for index, prompt in enumerate(traces.prompts):
        rows = traces.prompt_rows(index)
        assert tuple(traces.prompt_ids[rows].tolist()) == by_id[prompt.id].prompt_ids
        logits = target.model(input_ids=traces.prompt_ids[rows].unsqueeze(0), use_cache=False).logits[0]
        assert torch.equal(traces.prompt_top[rows].to(torch.int64), logits.topk(8, dim=-1).indices)
    # a prompt's last row is about the response's first token
    greedy = trace(tmp_path / "greedy", temperature=0.0)
    for index in range(len(greedy.prompts)):
        first = greedy.token_ids[greedy.prompt_index == index][0]
        assert greedy.prompt_top[greedy.prompt_rows(index)][-1, 0] == first


def test_at_temperature_0_the_text_is_the_arg_max(tmp_path: Path) -> None:
    traces = trace(tmp_path / "t", temperature=0.0)
    logits = output_head(tiny_pair()[0]).logits(traces.target_hidden)
    assert torch.equal(logits.argmax(-1), traces.token_ids)


def test_given_responses_are_read_as_they_are(tmp_path: Path) -> None:
    given = requests(4, responses=True)
    traces = collect_traces(*tiny_pair(), given, tmp_path / "t", max_new_tokens=12)
    assert traces.temperature is None
    for index, prompt in enumerate(traces.prompts):
        own = next(request for request in given if request.id == prompt.id)
        assert tuple(traces.token_ids[traces.prompt_index == index].tolist()) == (own.response_ids or ())[:12]
        assert prompt.finish_reason == "length"


@pytest.mark.parametrize("n_committed", [0, 1, 2])
def test_a_killed_run_goes_on_and_leaves_no_trace_of_the_kill(
    traced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_committed: int
) -> None:
    real, calls = add_shard, []

    def killed(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > n_committed:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(collect, "add_shard", killed)
        with pytest.raises(KeyboardInterrupt):
            trace(tmp_path / "t")
    # what a kill in the middle of a write leaves
    (tmp_path / "t" / "shard-00009.safetensors").write_bytes(b"half")
    (tmp_path / "t" / ".outlex-tmp-0").write_bytes(b"half")
    if n_committed:
        assert len(TraceSet.load(tmp_path / "t").prompts) == 2 * n_committed
    else:
        with pytest.raises(ArtifactError, match="goes on where it stopped"):
            TraceSet.load(tmp_path / "t")
    trace(tmp_path / "t")
    assert contents(tmp_path / "t") == contents(traced)


def test_added_prompts_leave_earlier_ones_as_they_were(traced: Path, tmp_path: Path) -> None:
    shutil.copytree(traced, tmp_path / "t")
    before, after = TraceSet.load(traced), trace(tmp_path / "t", n=7)
    assert len(after.prompts) == 7
    assert after.prompts[:5] == before.prompts
    assert torch.equal(after.target_hidden[: len(before)], before.target_hidden)
    old = contents(traced)
    assert {name: data for name, data in contents(tmp_path / "t").items() if name in old and name != "trace.json"} == {
        name: data for name, data in old.items() if name != "trace.json"
    }
    # nothing left to do: nothing is sampled, and nothing changes
    again = contents(tmp_path / "t")
    trace(tmp_path / "t", n=7)
    assert contents(tmp_path / "t") == again


def test_a_prompt_draws_the_same_whatever_else_is_traced(traced: Path, tmp_path: Path) -> None:
    alone = collect_traces(*tiny_pair(), requests()[2:3], tmp_path / "t", max_new_tokens=12, batch_size=2)
    traces = TraceSet.load(traced)
    index = [prompt.id for prompt in traces.prompts].index("p2")
    assert torch.equal(alone.token_ids, traces.token_ids[traces.prompt_index == index])
    other = trace(tmp_path / "other", seed=1)
    assert not torch.equal(other.token_ids[: len(traces)], traces.token_ids[: len(other)])


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        ({"temperature": 0.5}, "temperature"),
        ({"seed": 3}, "seed"),
        ({"max_new_tokens": 13}, "max_new_tokens"),
        ({"batch_size": 3}, "batch_size"),
    ],
)
def test_traces_made_otherwise_are_not_continued(traced: Path, change: dict[str, Any], needle: str) -> None:
    before = contents(traced)
    with pytest.raises(ArtifactError, match=needle) as caught:
        trace(traced, **change)
    assert "-o" in str(caught.value)
    assert contents(traced) == before


def test_other_prompts_and_other_models_are_not_added(traced: Path) -> None:
    changed = [replace(request, prompt_ids=(*request.prompt_ids, 5)) for request in requests()]
    with pytest.raises(ArtifactError, match="p0"):
        collect_traces(*tiny_pair(), changed, traced, max_new_tokens=12, batch_size=2)
    other = tiny_model(name="tiny-drafter", seed=9, n_layers=1)
    with pytest.raises(ArtifactError, match="head_fingerprint"):
        collect_traces(tiny_pair()[0], other, requests(), traced, max_new_tokens=12, batch_size=2)


def test_split_and_domain_keep_prompts_whole(traced: Path) -> None:
    traces = TraceSet.load(traced)
    first, second = traces.split(0.5, seed=3)
    assert len(first) + len(second) == len(traces)
    names = [{prompt.id for prompt in part.prompts} for part in (first, second)]
    assert not names[0] & names[1]
    assert {prompt.domain for prompt in first.prompts} == {"even", "odd"}
    assert {p.id for p in traces.split(0.5, seed=3)[0].prompts} == names[0]
    even = traces.domain("even")
    assert {prompt.id for prompt in even.prompts} == {"p0", "p2", "p4"}
    for index, prompt in enumerate(even.prompts):
        old = [p.id for p in traces.prompts].index(prompt.id)
        assert torch.equal(
            even.drafter_hidden[even.prompt_index == index], traces.drafter_hidden[traces.prompt_index == old]
        )
        for name in ("prompt_ids", "prompt_top"):
            theirs = getattr(traces, name)[traces.prompt_rows(old)]
            assert torch.equal(getattr(even, name)[even.prompt_rows(index)], theirs)
    for bad in (lambda: traces.domain("latin"), lambda: traces.split(0.01), lambda: traces.split(1.0)):
        with pytest.raises(InputError):
            bad()


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_mean_and_variance_are_those_of_all_rows_at_once(
    traced: Path, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outlex.calibration.target_probs._ROWS_AT_ONCE", 7)
    traces, head = TraceSet.load(traced), output_head(tiny_pair()[0])
    got = target_probs(traces, head, temperature=temperature)
    probs = probabilities(head.logits(traces.target_hidden), SamplingParams(temperature=temperature)).double()
    torch.testing.assert_close(got.mean, probs.mean(0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(got.variance, probs.var(0, correction=0), rtol=1e-6, atol=1e-9)
    assert got.n_positions == len(traces)
    with pytest.raises(MismatchError, match="outlex trace"):
        target_probs(traces, output_head(tiny_pair()[1]).rows(torch.arange(200)))


def test_another_pair_is_refused(traced: Path) -> None:
    target, drafter = tiny_pair()
    traces = TraceSet.load(traced)
    with pytest.raises(MismatchError, match="another drafter") as caught:
        traces.check_pair(target, tiny_model(name="x", seed=9, n_layers=1))
    assert "/somewhere/tiny-drafter" in str(caught.value)
    with pytest.raises(MismatchError, match="another target"):
        traces.check_pair(tiny_model(name="y", seed=9), drafter)
    with pytest.raises(MismatchError, match="258 rows"):
        traces.check_pair(tiny_model(name="y", seed=1, n_rows=258), drafter)


def test_the_fingerprint_does_not_depend_on_the_dtype_it_was_loaded_in() -> None:
    head = output_head(tiny_pair()[0])
    wide = replace(head, weight=head.weight.to(torch.bfloat16))
    narrow = replace(head, weight=wide.weight.float())
    traced = TracedModel.of(tiny_pair()[0])
    for loaded in (wide, narrow):
        traced.check(loaded, role="target")
    with pytest.raises(MismatchError, match="other weights"):
        traced.check(replace(head, weight=head.weight * 1.1), role="target")


@pytest.mark.parametrize("damage", ["cut shard", "changed shard", "no shard", "cut header", "changed header", "empty"])
def test_damage_is_noticed(traced: Path, tmp_path: Path, damage: str) -> None:
    directory = tmp_path / "t"
    shutil.copytree(traced, directory)
    shard, header = directory / "shard-00001.safetensors", directory / "trace.json"
    if damage == "cut shard":
        shard.write_bytes(shard.read_bytes()[:-9])
    elif damage == "changed shard":
        data = bytearray(shard.read_bytes())
        data[-5] ^= 1
        shard.write_bytes(data)
    elif damage == "no shard":
        shard.unlink()
    elif damage == "cut header":
        header.write_bytes(header.read_bytes()[:-30])
    elif damage == "changed header":
        body = json.loads(header.read_text())
        body["settings"]["temperature"] = 0.3
        header.write_text(json.dumps(body))
    else:
        header.unlink()
    with pytest.raises(ArtifactError) as caught:
        TraceSet.load(directory)
    assert "trace" in str(caught.value.next_step)


def test_traces_of_another_version_have_to_be_made_again(traced: Path, tmp_path: Path) -> None:
    shutil.copytree(traced, tmp_path / "t")
    header = tmp_path / "t" / "trace.json"
    header.write_text(json.dumps({**json.loads(header.read_text()), "schema": 1}))
    for use in (TraceSet.load, trace):
        with pytest.raises(ArtifactError, match="another version of outlex") as caught:
            use(tmp_path / "t")
        assert "trace again" in str(caught.value.next_step)


def test_states_that_are_not_numbers_are_refused(traced: Path, tmp_path: Path) -> None:
    traces = TraceSet.load(traced)
    for role in ("target_hidden", "drafter_hidden"):
        broken = getattr(traces, role).clone()
        broken[3, 2] = torch.nan
        with pytest.raises(NumericalError, match="float32"):
            replace(traces, **{role: broken})
    drafter = tiny_model(name="nan", seed=1, n_layers=1)
    drafter.model.get_decoder().layers[0].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(OutlexError):
        collect_traces(tiny_pair()[0], drafter, requests(), tmp_path / "t", max_new_tokens=4)


def test_rows_that_do_not_fit_the_header_are_refused(traced: Path) -> None:
    traces = TraceSet.load(traced)
    changes: list[dict[str, Any]] = [
        {"token_ids": traces.token_ids[:-1]},
        {"token_ids": traces.token_ids + 300},
        {"position": traces.position.flip(0)},
        {"prompt_index": traces.prompt_index.flip(0)},
        {"target_hidden": traces.target_hidden[:, :-1]},
        {"prompt_ids": traces.prompt_ids[1:]},
        {"prompt_ids": traces.prompt_ids - 300},
        {"prompt_top": traces.prompt_top[:, :3]},
        {"prompt_top": traces.prompt_top + 300},
    ]
    for change in changes:
        with pytest.raises(ArtifactError, match="outlex trace"):
            replace(traces, **change)


@pytest.mark.parametrize(
    ("bad", "options", "needle"),
    [
        ([], {}, "at least one prompt"),
        (requests(2) + requests(1), {}, "every id once"),
        (requests(1) + [replace(r, id="x") for r in requests(1, responses=True)], {}, "for all or for none"),
        ([TraceRequest(id="x", domain="d", prompt_ids=(1, 999))], {}, "target's tokenizer"),
        ([TraceRequest(id="x", domain="d", prompt_ids=(1,) * 250)], {}, "max-new-tokens"),
        (requests(1), {"max_new_tokens": 0}, "--max-new-tokens"),
        (requests(1), {"batch_size": 0}, "--batch-size"),
        (requests(1), {"temperature": -1.0}, "temperature"),
    ],
)
def test_bad_requests_are_explained(
    tmp_path: Path, bad: list[TraceRequest], options: dict[str, Any], needle: str
) -> None:
    with pytest.raises(InputError) as caught:
        collect_traces(*tiny_pair(), bad, tmp_path / "t", **{"max_new_tokens": 12, **options})
    assert needle in str(caught.value)
    assert not (tmp_path / "t").exists()


def test_an_empty_prompt_or_response_is_no_request() -> None:
    for ids, response in (((), None), ((1,), ())):
        with pytest.raises(InputError, match="leave this prompt out"):
            TraceRequest(id="x", domain="d", prompt_ids=ids, response_ids=response)


def test_a_directory_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ArtifactError, match=r"letter\.txt") as caught:
        trace(tmp_path)
    assert "-o" in str(caught.value)
    with pytest.raises(ArtifactError):
        trace(tmp_path / "letter.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_full_disk_keeps_what_was_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from outlex.calibration import trace_files

    real = replace_file

    def full(path: Path, data: bytes) -> None:
        if path.name == "shard-00001.safetensors":
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(trace_files, "replace_file", full)
    with pytest.raises(ArtifactError, match="free some disk space"):
        trace(tmp_path / "t")
    assert len(TraceSet.load(tmp_path / "t").prompts) == 2


def saved(model: LanguageModel, directory: Path) -> TracedModel:
    model.model.save_pretrained(directory)
    model.tokenizer.save_pretrained(directory)
    return replace(TracedModel.of(model), source=str(directory))


@pytest.mark.parametrize("family", ["llama", "phi", "tied"])
def test_a_head_is_found_in_the_checkpoint_without_the_rest(tmp_path: Path, family: str) -> None:
    model = tiny_model(family="llama" if family == "tied" else family, tied=family == "tied", sharpness=2.0)
    known = saved(model, tmp_path)
    head, wanted = load_head(known, progress=False), output_head(model)
    assert torch.equal(head.weight, wanted.weight)
    assert (head.bias is None) == (wanted.bias is None) == (family != "phi")
    with pytest.raises(MismatchError, match="trace the pair again"):
        load_head(replace(known, head_fingerprint="0" * 64), progress=False)
    with pytest.raises(OutlexError):
        load_head(replace(known, source=str(tmp_path / "nowhere")), progress=False)
