"""`outlex generate`: the text, the JSON, the statistics, and everything that can be wrong with a request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_builders import CONTEXT, json_of, run

PLAIN = ("--max-new-tokens", "12", "--dtype", "float32")


def generated(models: Path, *arguments: object) -> Any:
    return json_of(run("generate", "--target", models / "target", "-p", "the mill", "--json", *PLAIN, *arguments))


def test_drafters_change_the_steps_and_not_the_text(models: Path, trimmed: Path) -> None:
    alone = generated(models)
    untrimmed = generated(models, "--drafter", models / "drafter")
    short = generated(models, "--drafter", models / "drafter", "--trimmed", trimmed)
    assert alone["token_ids"] == untrimmed["token_ids"] == short["token_ids"]
    assert alone["text"] == untrimmed["text"] == short["text"]
    assert [alone["head"], untrimmed["head"], short["head"]] == [None, "untrimmed", "trimmed-290"]
    assert alone["stats"]["acceptance_rate"] is None  # NaN has no place in JSON
    for result in (alone, untrimmed, short):
        steps, stats = result["steps"], result["stats"]
        assert [i for step in steps for i in step["token_ids"]] == result["token_ids"]
        assert stats["n_passes"] == len(steps)
        assert stats["n_tokens"] == len(result["token_ids"]) == 12
        assert stats["n_accepted"] == sum(step["n_accepted"] for step in steps)
    assert result["machine"] == {"dtype": "float32", "device": "cpu", "threads": 1}


def test_trimmed_alone_loads_the_drafter_it_was_cut_from(models: Path, trimmed: Path) -> None:
    result = generated(models, "--trimmed", trimmed)
    assert (result["drafter"], result["head"]) == ("drafter", "trimmed-290")


def test_streamed_text_is_the_text(models: Path) -> None:
    wanted = generated(models)["text"] + "\n"
    request = ("generate", "--target", models / "target", "-p", "the mill", *PLAIN)
    streamed, whole = run(*request), run(*request, "--no-stream")
    assert streamed.stdout == whole.stdout == wanted
    assert "tokens/s" in streamed.stderr
    assert "1 threads" in streamed.stderr


def test_a_seed_repeats_a_sampled_text_and_is_shown(models: Path) -> None:
    hot = ("--temperature", "1.5", "--drafter", models / "drafter")
    first = generated(models, *hot)
    again = generated(models, *hot, "--seed", first["seed"])
    other = generated(models, *hot, "--seed", first["seed"] + 1)
    assert first["token_ids"] == again["token_ids"] != other["token_ids"]
    shown = run("generate", "--target", models / "target", "-p", "x", *PLAIN, "--temperature", "1", "--seed", 5)
    assert "seed" in shown.stderr


def test_prompts_from_stdin_and_file_are_the_same_prompt(models: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("the mill", encoding="utf-8")
    base = ("generate", "--target", models / "target", "--json", *PLAIN)
    texts = [
        json_of(run(*base, "-p", "the mill")),
        json_of(run(*base, "-p", "-", text="the mill")),
        json_of(run(*base, "--prompt-file", tmp_path / "prompt.txt")),
    ]
    assert len({tuple(text["token_ids"]) for text in texts}) == 1


def test_chat_template_system_and_raw(models: Path) -> None:
    chat, raw = generated(models), generated(models, "--raw")
    system = generated(models, "--system", "be brief")
    assert raw["stats"]["n_prompt"] < chat["stats"]["n_prompt"] < system["stats"]["n_prompt"]
    base = json_of(run("generate", "--target", models / "base", "-p", "the mill", "--json", *PLAIN))
    assert base["stats"]["n_prompt"] == raw["stats"]["n_prompt"]


def test_stop_strings_and_filters_reach_the_decoder(models: Path) -> None:
    text = generated(models)["text"]
    stop = text[3:5]
    stopped = generated(models, "--stop", stop)
    assert stopped["text"] == text[: text.index(stop)]
    assert stopped["finish_reason"] == "stop"
    options = (
        "--top-k",
        3,
        "--top-p",
        0.9,
        "--min-p",
        0.05,
        "--repetition-penalty",
        1.2,
        "--temperature",
        0.7,
    )
    assert generated(models, *options)["params"] == {
        "temperature": 0.7,
        "top_k": 3,
        "top_p": 0.9,
        "min_p": 0.05,
        "repetition_penalty": 1.2,
    }


def test_proposal_and_draft_length_reach_the_decoder(models: Path) -> None:
    result = generated(models, "--drafter", models / "drafter", "--proposal", "vanilla", "--draft-len", 2)
    assert (result["proposal"], result["draft_len"]) == ("vanilla", 2)
    assert max(len(step["draft_ids"]) for step in result["steps"]) == 2


def test_show_blocks_spells_the_text_with_block_ends(models: Path) -> None:
    result = run(
        *("generate", "--target", models / "target", "--drafter", models / "drafter", "-p", "the mill"),
        *("--show-blocks", *PLAIN),
    )
    assert "accepted  recovered  bonus" in result.stderr
    shown = result.stderr.partition("ends a block")[2].partition("tokens ")[0]
    flat = "".join(shown.split()).replace("|", "")
    assert "".join(result.stdout.split()).replace("|", "") == flat


@pytest.mark.parametrize(
    ("arguments", "code", "needles"),
    [
        (["-p", ""], 2, ["The prompt is empty", "--prompt-file"]),
        (["-p", " \n "], 2, ["The prompt is empty"]),
        (["-p", "", "--raw"], 2, ["The prompt is empty"]),
        ([], 2, ["Give the prompt once", "-p -"]),
        (["-p", "x", "--prompt-file", "y"], 2, ["both -p and --prompt-file"]),
        (["--prompt-file", "no-such-file"], 2, ["no-such-file", "--prompt-file"]),
        (["-p", "x", "--raw", "--system", "y"], 2, ["exclude each other"]),
        (["-p", "x", "--stop", ""], 2, ["stop string is empty"]),
        (["-p", "x", "--temperature", "-1"], 2, ["temperature", "0 is greedy"]),
        (["-p", "x", "--top-p", "0"], 2, ["top_p"]),
        (["-p", "x", "--seed", "-1"], 2, ["seed"]),
        (["-p", "x", "--dtype", "int3"], 2, ["int3", "auto"]),
        (["-p", "x", "--device", "tpu"], 2, ["tpu"]),
        (["-p", "word " * CONTEXT], 2, ["no room in the target's context", "shorten the prompt"]),
        (["-p", "x", "--trimmed", "no-such-directory"], 1, ["no-such-directory", "outlex trim"]),
    ],
)
def test_bad_requests_are_explained(models: Path, arguments: list[str], code: int, needles: list[str]) -> None:
    result = run("generate", "--target", models / "target", *arguments)
    assert result.exit_code == code
    assert result.stdout == ""
    for needle in needles:
        assert needle in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "needles"),
    [
        (["--target", "{models}/nowhere"], ["no such model", "check the path"]),
        (["--target", "qwen16"], ["did you mean qwen15"]),
        (
            ["--target", "{models}/target", "--drafter", "{models}/german"],
            ["different tokenizers", "same tokenizer"],
        ),
        (
            ["--target", "{models}/target", "--drafter", "{models}/other", "--trimmed", "{trimmed}"],
            ["other weights"],
        ),
        (["--target", "{models}/german", "--trimmed", "{trimmed}"], ["different tokenizers"]),
        (
            ["--target", "{models}/target", "--trimmed", "{models}/drafter"],
            ["No outlex artifact", "outlex trim"],
        ),
    ],
)
def test_models_that_do_not_fit_are_explained(
    models: Path, trimmed: Path, arguments: list[str], needles: list[str]
) -> None:
    filled = [argument.format(models=models, trimmed=trimmed) for argument in arguments]
    result = run("generate", *filled, "-p", "x")
    assert result.exit_code == 1
    assert result.stdout == ""
    for needle in needles:
        assert needle in result.stderr
    assert "Traceback" not in result.stderr


def test_system_needs_a_chat_template(models: Path) -> None:
    result = run("generate", "--target", models / "base", "-p", "x", "--system", "y")
    assert result.exit_code == 2
    assert "chat template" in result.stderr


def test_debug_shows_the_trace_as_well(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = ("generate", "--target", models / "nowhere", "-p", "x")
    plain, asked = run(*request), run("--debug", *request)
    monkeypatch.setenv("OUTLEX_DEBUG", "1")
    by_environment = run(*request)
    assert "Traceback" not in plain.stderr
    for result in (asked, by_environment):
        assert result.exit_code == plain.exit_code == 1
        assert "Traceback" in result.stderr
        assert "error: no such model" in result.stderr
