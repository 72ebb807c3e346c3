"""Ranking by evidence from several sources, and the prior for tokens that were seen little."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from outlex.calibration.stats import TokenStats
from outlex.errors import ArtifactError, InputError, MismatchError
from outlex.selection.evidence import DomainEvidence, Evidence, check_apart
from outlex.selection.plan import curve_of
from outlex.selection.ranking import RankPrior, fit_rank_prior, rank
from outlex.selection.report import coverage_by_domain, dropped_tokens
from outlex.selection.sources import read_evidence
from outlex.vocab.must_keep import MustKeep, must_keep
from outlex.vocab.ranking import Ranking
from outlex.vocab.tokenizer_facts import TokenizerFacts, facts_of

NO_MUST_KEEP = MustKeep(reasons={})


def words_of(n: int) -> TokenizerFacts:
    """A tokenizer of n pieces, every second one a plain word after a space, as byte-level BPE writes them."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = tuple(
        ("Ġ" if i % 2 else "_") + letters[i // 676] + letters[i // 26 % 26] + letters[i % 26] for i in range(n)
    )
    return TokenizerFacts(
        pieces=pieces, fingerprint="0" * 64, special_ids=(), added_ids=(), eos_id=None, spelling="byte-level"
    )


def evidence_of(*domains: Tensor, **settings: Any) -> Evidence:
    own = tuple(DomainEvidence(name=str(i), counts=c.double(), **settings) for i, c in enumerate(domains))
    return Evidence(domains=own, sources=({"source": "here"},))


# --- prior ---------------------------------------------------------------------------------------------------


def domains_of(
    n: int, *, n_tokens: int, shared: float = 0.0, own: float = 0.0, word_factor: float = 1.0
) -> list[Tensor]:
    """Counts of five domains, and of more text of a sixth.

    Args:
        n: tokens.
        n_tokens: of a domain.
        shared: how far each token is from the Zipf law, in all domains alike.
        own: how far it is from that in one domain.
        word_factor: of every second token.
    """
    generator = torch.Generator().manual_seed(2)

    def noise(size: float) -> Tensor:
        return (size * torch.randn(n, generator=generator, dtype=torch.float64)).exp()

    law = (torch.arange(n, dtype=torch.float64) + 300) ** -1.2 * noise(shared)
    law[1::2] *= word_factor
    sizes = [n_tokens] * 5 + [5 * n_tokens]
    drawn = [torch.multinomial(law * noise(own), size, replacement=True, generator=generator) for size in sizes]
    return [torch.bincount(ids, minlength=n) for ids in drawn]


def test_the_law_is_found_and_believed_where_it_explains_everything() -> None:
    evidence = evidence_of(*domains_of(6000, n_tokens=3000)[:-1])
    prior = fit_rank_prior(evidence, facts=words_of(6000), must_keep=NO_MUST_KEEP)
    assert prior.share > 0.9
    assert prior.exponent == pytest.approx(1.2, rel=0.1)
    assert prior.offset == pytest.approx(300, rel=0.3)
    assert prior.word_factor == pytest.approx(1, rel=0.1)


def test_the_prior_is_believed_less_where_counts_know_more() -> None:
    def share(**settings: float) -> float:
        n_tokens = int(settings.pop("n_tokens"))
        evidence = evidence_of(*domains_of(6000, n_tokens=n_tokens, **settings)[:-1])
        return fit_rank_prior(evidence, facts=words_of(6000), must_keep=NO_MUST_KEEP).share

    plenty, few = share(n_tokens=100_000, shared=1.0), share(n_tokens=2000, shared=1.0)
    other_domains = share(n_tokens=100_000, shared=1.0, own=1.0)
    assert plenty < 0.1 < few
    assert plenty < other_domains


@pytest.mark.parametrize("factor", [0.3, 4.0])
def test_the_factor_of_words_is_found(factor: float) -> None:
    evidence = evidence_of(*domains_of(6000, own=0.5, n_tokens=20_000, word_factor=factor)[:-1])
    prior = fit_rank_prior(evidence, facts=words_of(6000), must_keep=NO_MUST_KEEP)
    assert prior.word_factor == pytest.approx(factor, rel=0.25)


def test_the_mixture_beats_counts_and_order_alone_on_a_domain_that_was_not_counted() -> None:
    facts = words_of(6000)
    *counted, new = domains_of(6000, n_tokens=2000, shared=0.7, own=0.5)
    mixed = rank(evidence_of(*counted), facts=facts, must_keep=NO_MUST_KEEP)
    seen = rank(evidence_of(*counted), facts=facts, must_keep=NO_MUST_KEEP, by="counts").ids.tolist()
    unseen = sorted(set(range(6000)) - set(seen))
    orders = {"mixture": mixed.ids, "counts": torch.tensor(seen + unseen), "order": torch.arange(6000)}
    for size in (300, 600, 1500, 3000):
        covered = {name: float(new[order[:size]].sum()) for name, order in orders.items()}
        assert max(covered, key=lambda name: covered[name]) == "mixture", (size, covered)


def test_a_single_domain_gets_the_default_prior_and_a_given_one_is_taken() -> None:
    facts, counts = words_of(100), torch.arange(100)
    ranked = rank(evidence_of(counts), facts=facts, must_keep=NO_MUST_KEEP)
    assert ranked.provenance["prior"] == {"share": 0.5, "exponent": 1.0, "offset": 1000.0, "word_factor": 2.0}
    believed = rank(evidence_of(counts), facts=facts, must_keep=NO_MUST_KEEP, prior=RankPrior(share=1, word_factor=1))
    assert believed.ids.tolist() == list(range(100))
    ignored = rank(evidence_of(counts), facts=facts, must_keep=NO_MUST_KEEP, prior=RankPrior(share=0))
    assert ignored.ids.tolist() == list(range(99, 0, -1))  # 0 was never seen
    for wrong in ({"share": 1.5}, {"share": float("nan")}, {"offset": 0.0}, {"word_factor": -1.0}, {"exponent": -1.0}):
        with pytest.raises(InputError, match="have it fitted"):
            RankPrior(**wrong)


def test_a_domain_of_two_sources_is_one_domain() -> None:
    """Or the traces of a domain would be predicted from its counts, and the prior would seem useless."""
    first, second, *_ = domains_of(2000, n_tokens=5000, own=0.5)
    domains = [DomainEvidence(name="a", counts=c.double(), kind=kind) for c, kind in ((first, ""), (second, "traces"))]
    twice = Evidence(domains=tuple(domains), sources=({"source": "here"},))
    assert fit_rank_prior(twice, facts=words_of(2000), must_keep=NO_MUST_KEEP) == RankPrior()
    assert [domain.label for domain in domains] == ["a", "a (traces)"]


few_counts = st.lists(st.integers(0, 10**6), min_size=3, max_size=20).filter(any)


@settings(max_examples=25)
@given(few_counts, few_counts, st.data())
def test_any_counts_give_scores_of_the_same_sum_and_an_order_of_everything(
    first: list[int], second: list[int], data: st.DataObject
) -> None:
    n = max(len(first), len(second))
    kept = data.draw(st.sets(st.integers(0, n - 1), max_size=n - 1))
    keep = MustKeep(reasons={"extra": tuple(sorted(kept))})
    counts = [torch.tensor(c + [0] * (n - len(c))) for c in (first, second)]
    ranked = rank(evidence_of(*counts), facts=words_of(n), must_keep=keep)
    assert ranked.weights is not None
    assert float(ranked.weights.sum()) == pytest.approx(sum(first) + sum(second))
    assert bool((ranked.weights >= 0).all())
    total = counts[0] + counts[1]
    for i in kept:
        assert ranked.weights[i] == total[i]
    if sum(int(total[i]) for i in range(n) if i not in kept):
        assert set(range(n)) - kept <= set(ranked.ids.tolist())


def test_words_are_known_in_any_script_and_spelling(byte_level: Any, sentencepiece: Any) -> None:
    """A prior that believes in nothing but words: they come first, in their order."""

    def first(facts: TokenizerFacts, n: int) -> set[str | None]:
        prior = RankPrior(share=1, exponent=0, word_factor=20)
        counts = torch.ones(facts.n_entries)
        ranked = rank(evidence_of(counts), facts=facts, must_keep=NO_MUST_KEEP, prior=prior)
        return {facts.pieces[i] for i in ranked.ids[:n].tolist()}

    pieces = ("a", "Ġword", "ĠWord", "ĠfooBar", "ĠÐ¶Ð°", "Ġ12", "Ġa_b", "word")  # Ð¶Ð° is Cyrillic zha, a
    mixed = TokenizerFacts(
        pieces=pieces, fingerprint="0" * 64, special_ids=(), added_ids=(), eos_id=None, spelling="byte-level"
    )
    assert first(mixed, 3) == {"Ġword", "ĠWord", "ĠÐ¶Ð°"}
    assert first(facts_of(sentencepiece), 1) == {"\u2581a"}


# --- sources -------------------------------------------------------------------------------------------------


def stats_of(facts: TokenizerFacts, rows: dict[str, dict[int, int]], **settings: Any) -> TokenStats:
    counts = torch.zeros(len(rows), facts.n_entries, dtype=torch.int64)
    for row, name in enumerate(sorted(rows)):
        for i, n in rows[name].items():
            counts[row, i] = n
    values: dict[str, Any] = {
        "domains": tuple(sorted(rows)),
        "counts": counts,
        "documents": counts.clamp(max=1),
        "n_documents": (5,) * len(rows),
        "weights": (1.0,) * len(rows),
        "tokenizer_fingerprint": facts.fingerprint,
        **settings,
    }
    return TokenStats(**values)


@pytest.fixture
def facts(byte_level: Any) -> TokenizerFacts:
    return facts_of(byte_level)


def read(paths: list[Path], facts: TokenizerFacts) -> Evidence:
    evidence = read_evidence(paths, facts=facts)
    assert isinstance(evidence, Evidence)
    return evidence


def test_sources_add_up_with_their_weights(facts: TokenizerFacts, tmp_path: Path) -> None:
    stats_of(facts, {"chat": {260: 4}, "code": {261: 3}}, weights=(1.0, 0.5)).save(tmp_path / "a.safetensors")
    stats_of(facts, {"chat": {260: 2, 262: 1}}).save(tmp_path / "b.safetensors")
    (tmp_path / "list.json").write_text(json.dumps({"262": 7}), encoding="utf-8")
    paths = [tmp_path / name for name in ("a.safetensors", "b.safetensors", "list.json")]
    evidence = read(paths, facts)
    assert {d.name: d.weight for d in evidence.domains} == {"chat": 1.0, "code": 0.5, "list": 1.0}
    assert {i: float(evidence.total()[i]) for i in (260, 261, 262)} == {260: 6.0, 261: 1.5, 262: 8.0}
    assert [source["source"] for source in evidence.sources] == ["a.safetensors", "b.safetensors", "list.json"]
    ranked = rank(evidence, facts=facts, must_keep=must_keep(facts), by="counts")
    assert ranked.ids.tolist() == [262, 260, 261]
    assert json.loads(json.dumps(ranked.provenance)) == ranked.provenance


def test_statistics_of_a_tokenizer_without_the_last_tokens_fit(facts: TokenizerFacts, tmp_path: Path) -> None:
    n = facts.n_entries - 2
    counts = torch.ones(1, n, dtype=torch.int64)
    TokenStats(
        domains=("x",),
        counts=counts,
        documents=counts.clone(),
        n_documents=(1,),
        weights=(1.0,),
        tokenizer_fingerprint=facts.fingerprint_of_first(n),
    ).save(tmp_path / "s.safetensors")
    assert float(read([tmp_path / "s.safetensors"], facts).total().sum()) == n


def test_sources_that_do_not_belong_are_refused(
    facts: TokenizerFacts, make_byte_level: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "stats.safetensors"
    stats_of(facts_of(make_byte_level(added=("<other>", "<think>"))), {"x": {260: 1}}).save(path)
    with pytest.raises(MismatchError, match="outlex count --tokenizer"):
        read_evidence([path], facts=facts)
    stats_of(facts, {"x": {260: 1}}).save(path)
    with pytest.raises(InputError, match="added twice"):
        read_evidence([path, path], facts=facts)
    stats_of(facts, {"x": {260: 1}}, weights=(0.0,)).save(path)
    with pytest.raises(InputError, match="weight above 0"):
        read_evidence([path], facts=facts)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match="damaged"):
        read_evidence([path], facts=facts)


def test_a_list_without_counts_stands_alone(facts: TokenizerFacts, tmp_path: Path) -> None:
    ids, counts = tmp_path / "ids.json", tmp_path / "counts.json"
    ids.write_text("[300, 299]", encoding="utf-8")
    counts.write_text('{"300": 1}', encoding="utf-8")
    source = read_evidence([ids], facts=facts)
    assert isinstance(source, Ranking)
    kept = must_keep(facts)
    ranked = rank(source, facts=facts, must_keep=kept)
    assert ranked.ids.tolist() == [300, 299]
    with pytest.raises(InputError, match="give --size a number"):
        curve_of(ranked, facts=facts, n_target=facts.n_entries, must_keep=kept)
    with pytest.raises(InputError, match="outlex trace"):
        rank(source, facts=facts, must_keep=kept, by="variance")
    with pytest.raises(InputError, match="a count for each id"):
        read_evidence([counts, ids], facts=facts)


def test_the_same_counts_are_not_chosen_by_and_reported_on(facts: TokenizerFacts, tmp_path: Path) -> None:
    stats_of(facts, {"x": {260: 1}}).save(tmp_path / "a.safetensors")
    stats_of(facts, {"x": {260: 2}}).save(tmp_path / "b.safetensors")
    first, second = (read([tmp_path / name], facts) for name in ("a.safetensors", "b.safetensors"))
    check_apart(first, second)
    both = read([tmp_path / "a.safetensors", tmp_path / "b.safetensors"], facts)
    with pytest.raises(InputError, match="--report-on"):
        check_apart(both, second)


def test_variance_over_domains_is_that_of_all_positions(facts: TokenizerFacts) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(n, facts.n_entries, generator=generator, dtype=torch.float64) for n in (5, 9)]
    laws = [one.softmax(-1) for one in logits]
    domains = tuple(DomainEvidence(name=str(len(p)), counts=p.sum(0), variance=p.var(0, correction=0)) for p in laws)
    evidence = Evidence(domains=domains, sources=({"source": "t"},))
    torch.testing.assert_close(evidence.variance(), torch.cat(laws).var(0, correction=0))
    ranked = rank(evidence, facts=facts, must_keep=NO_MUST_KEEP, by="variance")
    assert ranked.ids[0] == torch.cat(laws).var(0).argmax()
    with pytest.raises(InputError, match="outlex trace"):
        rank(evidence_of(torch.ones(facts.n_entries)), facts=facts, must_keep=NO_MUST_KEEP, by="variance")


# --- curve and report ----------------------------------------------------------------------------------------


def test_the_curve_follows_what_a_sub_vocabulary_would_cover(facts: TokenizerFacts) -> None:
    from outlex.vocab.sub_vocab import SubVocab

    counts = torch.arange(facts.n_entries) % 17
    kept, n_target = must_keep(facts), facts.n_entries - 3  # the last ids have no row in the target
    ranked = rank(evidence_of(counts), facts=facts, must_keep=kept, by="counts")
    curve = curve_of(ranked, facts=facts, n_target=n_target, must_keep=kept)
    assert curve.largest == n_target
    for size in (curve.smallest, curve.smallest + 20, curve.largest):
        vocab = SubVocab.from_ranking(
            ranked.ids, size=size, facts=facts, n_target=n_target, must_keep=kept, provenance={}
        )
        assert curve.at(size) == pytest.approx(vocab.coverage(counts), abs=1e-12)


def test_a_report_names_domains_and_lost_tokens(facts: TokenizerFacts, tmp_path: Path) -> None:
    a, word = (facts.pieces.index(piece) for piece in ("a", "Ġa"))
    stats_of(facts, {"empty": {}, "x": {a: 3, word: 1}}).save(tmp_path / "s.safetensors")
    evidence = read([tmp_path / "s.safetensors"], facts)
    kept = torch.ones(facts.n_entries, dtype=torch.bool)
    kept[word] = False
    ((name, estimate),) = coverage_by_domain(kept, evidence)
    assert (name, estimate.value) == ("x", 0.75)
    (lost,) = dropped_tokens(kept, evidence.total(), facts=facts, n=5)
    assert (lost.id, lost.text, lost.share) == (word, " a", 0.25)
