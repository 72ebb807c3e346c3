"""TokenMap against loops over Python lists."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outlex.errors import VocabError
from outlex.vocab.token_map import TokenMap

WIDE = 151_936


@st.composite
def maps(draw: st.DrawFn) -> tuple[TokenMap, list[int]]:
    """A map and the ids of its rows; about half of them are identities."""
    n_target = draw(st.integers(1, 12))
    n_draft = draw(st.integers(1, 12))
    if draw(st.booleans()):
        ids = [row if row < n_target else -1 for row in range(n_draft)]
        return TokenMap.identity(n_draft, n_target), ids
    shuffled = draw(st.permutations(range(n_target)))
    ids = [draw(st.sampled_from([shuffled[row], -1])) if row < n_target else -1 for row in range(n_draft)]
    return TokenMap(torch.tensor(ids), n_draft=n_draft, n_target=n_target), ids


@given(maps())
def test_lookups_are_inverse_and_agree_with_the_lists(case: tuple[TokenMap, list[int]]) -> None:
    token_map, ids = case
    rows_of = [ids.index(index) if index in ids else -1 for index in range(token_map.n_target)]
    assert token_map.draft_to_target.tolist() == ids
    assert token_map.target_to_draft.tolist() == rows_of
    assert token_map.draft_to_target.dtype == token_map.target_to_draft.dtype == torch.int64
    rows = torch.arange(-1, token_map.n_draft)
    assert token_map.to_target(rows).tolist() == [-1, *ids]
    assert token_map.to_draft(torch.arange(-1, token_map.n_target)).tolist() == [-1, *rows_of]
    back = token_map.to_draft(token_map.to_target(rows))
    assert torch.equal(back, torch.where(token_map.to_target(rows) >= 0, rows, -1))
    known = token_map.known
    assert (known is None) == (-1 not in ids)
    if known is not None:
        assert known.tolist() == [index >= 0 for index in ids]


@given(maps(), st.sampled_from([(), (1,), (2, 3)]))
def test_scatter_agrees_with_the_loop(case: tuple[TokenMap, list[int]], shape: tuple[int, ...]) -> None:
    token_map, ids = case
    values = torch.randn(*shape, token_map.n_draft, generator=torch.Generator().manual_seed(1))
    expected = torch.zeros(*shape, token_map.n_target)
    for row, index in enumerate(ids):
        if index >= 0:
            expected[..., index] = values[..., row]
    assert torch.equal(token_map.scatter(values), expected)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (1, 0)])
def test_lookups_keep_the_shape(shape: tuple[int, ...]) -> None:
    token_map = TokenMap(torch.tensor([3, -1, 0]), n_draft=3, n_target=5)
    assert token_map.to_target(torch.zeros(shape, dtype=torch.int64)).shape == shape
    assert token_map.to_draft(torch.zeros(shape, dtype=torch.int64)).shape == shape


def test_identity_of_equal_widths_does_not_copy() -> None:
    token_map = TokenMap.identity(7, 7)
    values, ids = torch.rand(2, 7), torch.tensor([0, 6])
    assert token_map.is_identity
    assert token_map.known is None
    assert token_map.scatter(values) is values
    assert token_map.to_target(ids) is ids
    assert token_map.to_draft(ids) is ids


def test_padded_widths_of_one_tokenizer() -> None:
    narrow_drafter = TokenMap.identity(WIDE, 152_064)
    assert narrow_drafter.known is None
    assert narrow_drafter.to_draft(torch.tensor([WIDE - 1, WIDE])).tolist() == [WIDE - 1, -1]
    wide = narrow_drafter.scatter(torch.ones(2, WIDE, dtype=torch.bfloat16))
    assert wide.shape == (2, 152_064)
    assert (wide != 0).sum(dim=-1).tolist() == [WIDE, WIDE]
    wide_drafter = TokenMap.identity(152_064, WIDE)
    assert wide_drafter.known is not None
    assert int(wide_drafter.known.sum()) == WIDE
    assert wide_drafter.to_target(torch.tensor([WIDE - 1, WIDE])).tolist() == [WIDE - 1, -1]
    assert wide_drafter.scatter(torch.ones(152_064)).shape == (WIDE,)


def test_wide_map_round_trips_in_bfloat16() -> None:
    ids = torch.randperm(WIDE, generator=torch.Generator().manual_seed(2))[:16_384]
    token_map = TokenMap(ids, n_draft=16_384, n_target=WIDE)
    values = torch.rand(3, 16_384, generator=torch.Generator().manual_seed(3)).to(torch.bfloat16)
    dense = token_map.scatter(values)
    assert dense.dtype == torch.bfloat16
    assert torch.equal(dense[:, ids], values)
    assert int((dense != 0).sum()) == int((values != 0).sum())
    assert torch.equal(token_map.to_draft(ids), torch.arange(16_384))


def test_scatter_lets_gradients_through_after_inference_mode() -> None:
    token_map = TokenMap.identity(4, 6)
    with torch.inference_mode():
        assert token_map.draft_to_target.tolist() == [0, 1, 2, 3]
    weights = torch.ones(6, requires_grad=True)
    weights[token_map.draft_to_target].sum().backward()  # type: ignore[no-untyped-call]
    assert weights.grad is not None
    assert weights.grad.tolist() == [1, 1, 1, 1, 0, 0]
    values = torch.ones(2, requires_grad=True)
    chosen = TokenMap(torch.tensor([2, 0]), n_draft=2, n_target=3)
    (chosen.scatter(values) * torch.tensor([5.0, 6.0, 7.0])).sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert values.grad.tolist() == [7, 5]


def test_moving_keeps_every_table() -> None:
    here = TokenMap(torch.tensor([3, -1, 0]), n_draft=3, n_target=5)
    assert here.to("cpu") is here
    there = here.to("meta")
    assert there.device.type == "meta"
    assert there.n_draft == 3
    for tensor in (there.draft_to_target, there.target_to_draft, there.known):
        assert tensor is not None
        assert tensor.device.type == "meta"
    assert there.scatter(torch.rand(2, 3, device="meta")).shape == (2, 5)
    assert TokenMap.identity(3, 5).to("meta").draft_to_target.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_method_waits_for_the_device() -> None:
    for token_map in (
        TokenMap(torch.tensor([3, -1, 0]), n_draft=3, n_target=5),
        TokenMap(torch.tensor([3, 1, 0]), n_draft=3, n_target=5),
        TokenMap.identity(3, 5),
        TokenMap.identity(5, 3),
    ):
        moved = token_map.to("cuda")
        assert moved.device == torch.device("cuda:0")
        rows = torch.arange(-1, token_map.n_draft)
        ids = torch.arange(-1, token_map.n_target)
        values = torch.rand(2, token_map.n_draft)
        on_device = rows.to("cuda"), ids.to("cuda"), values.to("cuda")
        torch.cuda.set_sync_debug_mode("error")
        try:
            results = (
                moved.to_target(on_device[0]),
                moved.to_draft(on_device[1]),
                moved.scatter(on_device[2]),
                moved.draft_to_target,
                moved.target_to_draft,
            )
        finally:
            torch.cuda.set_sync_debug_mode("default")
        expected = (
            token_map.to_target(rows),
            token_map.to_draft(ids),
            token_map.scatter(values),
            token_map.draft_to_target,
            token_map.target_to_draft,
        )
        for result, wanted in zip(results, expected, strict=True):
            assert torch.equal(result.cpu(), wanted)


@pytest.mark.parametrize(
    ("ids", "n_draft", "n_target", "remedy"),
    [
        ([0, 1], 3, 5, "one absolute target id"),
        ([0.0, 1.0], 2, 5, "one absolute target id"),
        ([[0, 1]], 2, 5, "one absolute target id"),
        ([0, 5], 2, 5, "absolute ids, not offsets"),
        ([0, -2], 2, 5, "absolute ids, not offsets"),
        ([1, 1], 2, 5, "one row for each id"),
        (None, 0, 5, "number of rows"),
        (None, 5, 0, "number of rows"),
    ],
)
def test_bad_maps_are_refused(ids: list[int] | None, n_draft: int, n_target: int, remedy: str) -> None:
    tensor = None if ids is None else torch.tensor(ids)
    with pytest.raises(VocabError, match=remedy):
        TokenMap(tensor, n_draft=n_draft, n_target=n_target)


def test_several_unknown_rows_are_no_repetition() -> None:
    token_map = TokenMap(torch.tensor([-1, 2, -1]), n_draft=3, n_target=3)
    assert token_map.scatter(torch.ones(3)).tolist() == [0, 0, 1]
    nothing = TokenMap(torch.tensor([-1, -1]), n_draft=2, n_target=3)
    assert nothing.scatter(torch.ones(2)).tolist() == [0, 0, 0]


def test_repr_says_what_it_is() -> None:
    assert repr(TokenMap.identity(3, 5)) == "TokenMap(identity, n_draft=3, n_target=5, device=cpu)"
