"""Whether a map fits a target: padding, added tokens, re-ordered tokenizers; names, must-keep tokens, coverage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from outlex.calibration.stats import TokenStats
from outlex.errors import MismatchError
from outlex.formats import MapFile
from outlex.formats.compare import compare
from outlex.formats.engines import verdicts
from outlex.formats.fit import TargetFacts, fit, relation
from outlex.formats.tokens import Names, coverage, missing_must_keep
from outlex.vocab.must_keep import must_keep
from outlex.vocab.tokenizer_facts import TokenizerFacts, facts_of


def a_map(ids: list[int], **more: Any) -> MapFile:
    settings: dict[str, Any] = {
        "format": "sglang-token-map",
        "path": Path("map.pt"),
        "ids": torch.tensor(ids),
        "n_target": None,
        "spelling": "absolute",
        "settled_by": "a test",
        "layout": "a test",
        **more,
    }
    return MapFile(**settings)


def plain(pieces: list[str], *, special: tuple[int, ...] = ()) -> TokenizerFacts:
    """Facts of a tokenizer of these pieces."""
    return TokenizerFacts(
        pieces=tuple(pieces),
        fingerprint="|".join(pieces),
        special_ids=special,
        added_ids=special,
        eos_id=None,
        spelling="text",
    )


# --- tokenizers ----------------------------------------------------------------------------------------------


def test_relations_of_tokenizers() -> None:
    base = plain(["a", "b", "c", "d"])
    assert relation(base, base).kind == "same"
    more = relation(base, plain(["a", "b", "c", "d", "e"]))
    assert (more.kind, more.n_added, more.changed) == ("added", 1, ())
    assert relation(plain(["a", "b", "c", "d", "e"]), base).n_added == -1
    moved = relation(base, plain(["b", "a", "c", "d"]))
    assert (moved.kind, moved.changed) == ("reordered", (0, 1))
    other = relation(base, plain(["a", "x", "c", "d"]))
    assert (other.kind, other.changed) == ("different", (1,))


def test_padding_is_no_difference() -> None:
    pieces = [str(i) for i in range(10)]
    target = TargetFacts(name="t", n_rows=14, facts=plain(pieces))
    found = fit(a_map([1, 9], n_target=12), target, made_for=plain(pieces))
    assert found.verdict == "yes"
    assert any("both are padding after 10 tokens" in line for line in found.findings)


@pytest.mark.parametrize("n_rows", [2_000_000, 10])
def test_a_head_of_quite_another_width_is_another_vocabulary(n_rows: int) -> None:
    pieces = [str(i) for i in range(5000)]
    target = TargetFacts(name="t", n_rows=5000, facts=plain(pieces))
    found = fit(a_map([1, 9], n_target=n_rows), target, made_for=None)
    assert found.verdict == "no"
    assert "more than padding" in found.findings[0]
    # whose tokens they are says more than a width
    assert fit(a_map([1, 9], n_target=n_rows), target, made_for=plain(pieces)).verdict == "yes"


def test_an_id_in_the_padding_or_beyond_the_head_does_not_fit() -> None:
    pieces = [str(i) for i in range(10)]
    target = TargetFacts(name="t", n_rows=14, facts=plain(pieces))
    in_padding = fit(a_map([1, 12, 13]), target, made_for=None)
    assert (in_padding.verdict, in_padding.n_padding) == ("no", 2)
    beyond = fit(a_map([1, 14]), target, made_for=None)
    assert beyond.verdict == "no"
    assert "beyond the 14 rows" in beyond.findings[0]


def test_a_list_alone_proves_nothing() -> None:
    target = TargetFacts(name="t", n_rows=3, facts=plain(["a", "b", "c"]))
    found = fit(a_map([0, 1]), target, made_for=None)
    assert found.verdict == "unproven"
    assert any("--tokenizer" in line for line in found.findings)


def test_a_reordered_tokenizer_is_told_from_a_different_one() -> None:
    target = TargetFacts(name="t", n_rows=3, facts=plain(["b", "a", "c"]))
    moved = fit(a_map([0, 2]), target, made_for=plain(["a", "b", "c"]))
    assert moved.verdict == "no"
    assert "the same tokens under other ids" in moved.findings[0]
    assert "2 ids changed, 1 of them in the map (id 0: 'a' there, 'b' here)" in moved.findings[0]
    other = fit(a_map([0, 2]), target, made_for=plain(["x", "a", "c"]))
    assert "other tokens" in other.findings[0]
    added = fit(
        a_map([0, 2]), replace(target, facts=plain(["a", "b", "c", "d"]), n_rows=4), made_for=plain(["a", "b", "c"])
    )
    assert added.verdict == "yes"
    assert any("1 tokens more" in line for line in added.findings)


def test_a_fingerprint_is_a_proof(byte_level: Any) -> None:
    facts = facts_of(byte_level)
    target = TargetFacts(name="t", n_rows=facts.n_entries, facts=facts)
    ours = a_map([1, 2], tokenizer_fingerprint=facts.fingerprint, n_tokenizer=facts.n_entries)
    assert fit(ours, target, made_for=None).verdict == "yes"
    shorter = a_map([1, 2], tokenizer_fingerprint=facts.fingerprint_of_first(300), n_tokenizer=300)
    assert fit(shorter, target, made_for=None).verdict == "yes"
    foreign = replace(ours, tokenizer_fingerprint="0" * 64)
    assert fit(foreign, target, made_for=None).verdict == "no"


# --- names, must-keep, coverage -------------------------------------------------------------------------------


def test_names(byte_level: Any) -> None:
    names = Names(facts=facts_of(byte_level))
    vocab = byte_level.get_vocab()
    assert names.of(vocab["a"]) == "'a'"
    assert names.of(vocab["Ġ"]) == "' '"
    assert names.of(vocab["Ċ"]) == "'\\n'"
    # the first byte of a three-byte character is no text on its own
    assert names.of(vocab["ä"]) == "byte 0xE4"
    assert names.of(vocab["<|im_end|>"]) == "<|im_end|>"
    assert names.of(10**6) == "id 1000000, no token"


def test_missing_must_keep_tokens(byte_level: Any) -> None:
    facts = facts_of(byte_level)
    policy = must_keep(facts)
    everything = torch.arange(facts.n_entries)
    assert not any(missing_must_keep(everything, policy, n_target=facts.n_entries).values())
    end = byte_level.get_vocab()["<|im_end|>"]
    found = missing_must_keep(everything[everything != end], policy, n_target=facts.n_entries)
    assert found["stop"] == found["special"] == [end]
    assert found["byte"] == []
    # what the head has no row for cannot be missing
    assert missing_must_keep(everything[:5], policy, n_target=5)["byte"] == []


def stats_of(facts: TokenizerFacts, counts: dict[int, int]) -> TokenStats:
    row = torch.zeros(1, facts.n_entries, dtype=torch.int64)
    for token_id, count in counts.items():
        row[0, token_id] = count
    return TokenStats(
        domains=("code",),
        counts=row,
        documents=(row > 0).long(),
        n_documents=(1,),
        weights=(1.0,),
        tokenizer_fingerprint=facts.fingerprint,
    )


def test_coverage(byte_level: Any, make_byte_level: Callable[..., Any]) -> None:
    facts = facts_of(byte_level)
    stats = stats_of(facts, {3: 6, 7: 3, 9: 1})
    found = coverage(a_map([3, 9, 100_000]), stats, facts=None)
    assert (found["total"], found["domains"], found["tokenizer_is_proven"]) == (0.7, {"code": 0.7}, False)
    assert coverage(a_map([3, 9]), stats, facts=facts)["tokenizer_is_proven"]
    longer = facts_of(make_byte_level(added=("<tool_call>", "<think>", "<one_more>")))
    assert coverage(a_map([3, 9]), stats, facts=longer)["total"] == 0.7
    for kwargs in ({"facts": plain(["a"])}, {"facts": None}):
        ours = a_map([3], tokenizer_fingerprint="0" * 64, n_tokenizer=5)
        with pytest.raises(MismatchError, match="another tokenizer") as caught:
            coverage(ours, stats, **kwargs)
        assert "outlex count" in str(caught.value)


# --- two maps, engines ----------------------------------------------------------------------------------------


def test_comparison() -> None:
    found = compare(a_map([5, 1, 9, 3]), a_map([1, 3, 7]))
    assert (found.only_a.tolist(), found.only_b.tolist(), found.n_shared) == ([5, 9], [7], 2)
    assert found.jaccard == pytest.approx(2 / 5)
    assert found.is_same_order
    assert not found.is_identical
    assert not compare(a_map([3, 1]), a_map([1, 3])).is_same_order
    assert compare(a_map([3, 1]), a_map([3, 1], spelling="offsets")).is_identical


@pytest.mark.parametrize(
    ("name", "whole", "loading"),
    [
        ("sglang-token-map", {}, {"SGLang 0.5.23"}),
        ("eagle3-d2t", {"config": {"a": 1}}, {"vLLM 0.32", "SGLang 0.5.23", "llama.cpp (2026)"}),
        ("eagle3-d2t", {}, set()),
        ("medusa-token-map", {"config": {"a": 1}}, {"vLLM 0.32"}),
        ("gguf", {"tensors": {"output.weight": "F32"}}, {"llama.cpp (2026)"}),
        ("gguf", {}, set()),
        ("token-ids", {}, set()),
    ],
)
def test_engines(name: str, whole: dict[str, Any], loading: set[str]) -> None:
    found = verdicts(a_map([1, 2], format=name, traps=("this file",), **whole), missing=[4])
    assert {verdict.engine for verdict in found if verdict.loads} == loading
    assert len(found) == 4
    for verdict in found:
        assert ("this file" in verdict.traps) == verdict.loads
        assert any("must-keep" in trap for trap in verdict.traps) == verdict.loads


def test_known_traps_are_named() -> None:
    (sglang,) = [verdict for verdict in verdicts(a_map([1, 2])) if verdict.engine.startswith("SGLang")]
    assert any("EAGLE-3 ignores" in trap for trap in sglang.traps)
    assert any("STANDALONE" in trap for trap in sglang.traps)


# --- real tokenizers ------------------------------------------------------------------------------------------


def test_real_padding_and_another_family(real_tokenizer: Callable[[str], Any]) -> None:
    qwen, smol = facts_of(real_tokenizer("qwen05")), facts_of(real_tokenizer("smol135"))
    assert qwen.n_entries == 151_665
    # 151,936 rows in the small models of the family, 152,064 in the large ones
    target = TargetFacts(name="qwen", n_rows=151_936, facts=qwen)
    padded = fit(a_map([0, 151_664], n_target=152_064), target, made_for=qwen)
    assert padded.verdict == "yes"
    assert any("both are padding after 151,665 tokens" in line for line in padded.findings)
    assert fit(a_map([0, 151_935]), target, made_for=qwen).n_padding == 1
    assert fit(a_map([0, 152_000]), target, made_for=qwen).verdict == "no"
    # the instruct models' added tokens stand at the end
    base = replace(qwen, pieces=qwen.pieces[:151_643], special_ids=(), added_ids=(), eos_id=None, fingerprint="b")
    assert relation(base, qwen).kind == "added"
    assert fit(a_map([0, 151_642]), target, made_for=base).verdict == "yes"
    assert relation(qwen, smol).kind == "different"
    assert fit(a_map([0, 1000]), target, made_for=smol).verdict == "no"
    first, second, *rest = qwen.pieces
    assert relation(qwen, replace(qwen, pieces=(second, first, *rest), fingerprint="r")).kind == "reordered"


@pytest.mark.real_model
def test_a_real_tokenizer_against_itself_with_changes(smol135: Any) -> None:
    facts = facts_of(smol135.tokenizer)
    ids = list(range(0, facts.n_entries, 7))
    target = TargetFacts(name="smol", n_rows=smol135.n_rows, facts=facts)
    assert fit(a_map(ids), target, made_for=facts).verdict == "yes"
    first, second, *rest = facts.pieces
    swapped = replace(facts, pieces=(second, first, *rest), fingerprint="x")
    assert relation(facts, swapped).kind == "reordered"
    assert fit(a_map(ids), target, made_for=swapped).verdict == "no"
    longer = replace(facts, pieces=(*facts.pieces, "<new>"), fingerprint="y")
    assert relation(facts, longer).kind == "added"
    assert fit(a_map(ids), replace(target, n_rows=smol135.n_rows + 64), made_for=longer).verdict == "yes"
    # an SGLang map made by rank alone: the byte tokens that no text ever used are gone
    lacking = missing_must_keep(torch.tensor(ids), must_keep(facts), n_target=smol135.n_rows)
    assert len(lacking["byte"]) > 100
    assert Names(facts=facts).of(lacking["byte"][0])
