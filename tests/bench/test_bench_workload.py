from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import byte_tokenizer, tiny_pair

from outlex.bench.workload import PromptRecord, encode_prompt, read_prompts
from outlex.errors import InputError


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_reads_texts_and_chats_and_fills_in_id_and_domain(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why?"}]
    path = write(
        tmp_path / "p.jsonl",
        {"id": "x/1", "domain": "code", "prompt": "def f():", "reference": "ignored"},
        "",
        {"messages": turns},
        {"id": 7, "prompt": "hm"},
    )
    assert read_prompts(path) == [
        PromptRecord(id="x/1", domain="code", text="def f():"),
        PromptRecord(id="line-3", domain="all", messages=tuple(turns)),
        PromptRecord(id="7", domain="all", text="hm"),
    ]


def test_takes_a_byte_order_mark_windows_line_ends_and_unicode_separators(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes('\ufeff{"prompt": "a\u2028b"}\r\n{"prompt": "c"}\r\n'.encode())
    assert [record.text for record in read_prompts(path)] == ["a\u2028b", "c"]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "3",
        "{}",
        {"prompt": ""},
        {"prompt": "  "},
        {"prompt": 3},
        {"prompt": "a", "messages": [{"role": "user", "content": "a"}]},
        {"messages": []},
        {"messages": "hello"},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"prompt": "a", "id": [1]},
        {"prompt": "a", "domain": 3},
        {"prompt": "a", "domain": ""},
    ],
)
def test_names_the_line_that_is_wrong(tmp_path: Path, line: Any) -> None:
    path = write(tmp_path / "p.jsonl", {"prompt": "fine"}, line)
    with pytest.raises(InputError, match=r"p\.jsonl, line 2[\s\S]*correct or delete that line"):
        read_prompts(path)


def test_refuses_an_id_twice_and_names_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"id": "a", "prompt": "x"}, "", {"id": "a", "prompt": "y"})
    with pytest.raises(InputError, match=r"line 3[\s\S]*'a', also in line 1[\s\S]*rename"):
        read_prompts(path)


def test_refuses_an_empty_file_a_missing_one_and_one_that_is_not_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no prompt[\s\S]*add at least one line"):
        read_prompts(write(tmp_path / "empty.jsonl", "", " "))
    with pytest.raises(InputError, match=r"absent\.jsonl cannot be read[\s\S]*--prompts"):
        read_prompts(tmp_path / "absent.jsonl")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read_prompts(tmp_path / "binary")


@pytest.mark.parametrize("limit", [0, 4])
def test_refuses_a_limit_that_the_file_cannot_meet(tmp_path: Path, limit: int) -> None:
    path = write(tmp_path / "p.jsonl", *({"prompt": str(n)} for n in range(3)))
    with pytest.raises(InputError, match=r"1 to 3[\s\S]*ask for fewer"):
        read_prompts(path, limit=limit)


@given(domains=st.lists(st.sampled_from("abcd"), min_size=1, max_size=20), data=st.data())
def test_a_limited_number_is_spread_over_the_domains(
    tmp_path_factory: pytest.TempPathFactory, domains: list[str], data: st.DataObject
) -> None:
    limit = data.draw(st.integers(1, len(domains)))
    lines = [{"id": n, "domain": domain, "prompt": "p"} for n, domain in enumerate(domains)]
    path = write(tmp_path_factory.getbasetemp() / "spread.jsonl", *lines)
    taken = read_prompts(path, limit=limit)
    assert len(taken) == limit
    got, had = Counter(record.domain for record in taken), Counter(domains)
    for domain in had:
        ids = [int(record.id) for record in taken if record.domain == domain]
        # the first ones of each domain, in the order of the file
        assert ids == [n for n, d in enumerate(domains) if d == domain][: len(ids)]
        # nobody gets a second turn while somebody who waits has not had the first
        assert all(got[domain] <= got[other] + 1 or got[other] == had[other] for other in had)


def test_a_text_becomes_the_users_turn_unless_it_is_raw() -> None:
    target = tiny_pair()[0]
    record = PromptRecord(id="a", domain="all", text="hi")
    assert target.decode(encode_prompt(target, record, raw=False)) == "[user]hi[assistant]"
    assert target.decode(encode_prompt(target, record, raw=True)) == "hi"


def test_a_text_is_raw_for_a_base_model(monkeypatch: pytest.MonkeyPatch) -> None:
    target = tiny_pair()[0]
    monkeypatch.setattr(byte_tokenizer(), "chat_template", None)
    assert target.decode(encode_prompt(target, PromptRecord(id="a", domain="all", text="hi"), raw=False)) == "hi"


def test_a_conversation_needs_the_chat_template() -> None:
    target = tiny_pair()[0]
    record = PromptRecord(id="a", domain="all", messages=({"role": "user", "content": "hi"},))
    assert target.decode(encode_prompt(target, record, raw=False)) == "[user]hi[assistant]"
    with pytest.raises(InputError, match=r"'a' is a conversation[\s\S]*leave raw off"):
        encode_prompt(target, record, raw=True)


def test_a_prompt_is_one_of_the_two() -> None:
    with pytest.raises(InputError, match="a text or a conversation"):
        PromptRecord(id="a", domain="all")
