"""Tables of docs/rdk.md from what was recorded.

    python benchmarks/rdk/tables.py            # prints them
    python benchmarks/rdk/tables.py --write    # puts them into the page

Each table stands in the page between <!-- FOLDER/NAME --> and <!-- end -->.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "rdk.md"
Rows = list[dict[str, Any]]


def pruning(body: dict[str, Any]) -> str:
    """One line a size: TLI between ceiling and untrimmed head, what `outlex fit` would take, and what did best."""
    rows = [row for row in body["rows"] if row["domain"] == "all"]
    lines = [
        "| rows | untrimmed | ceiling | TLI | chosen | its gain | highest gain of all | samplers above TLI |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size in dict.fromkeys(row["n_draft"] for row in rows):
        own = [row for row in rows if row["n_draft"] == size]
        tli, others = own[0], own[1:]
        [chosen] = [row for row in own if row["chosen"]]
        best = max(others, key=lambda row: row["gain"][0])
        above = sum(row["gain"][1] > 0 for row in others)
        lines.append(
            f"| {size:,} | {tli['untrimmed']:.4f} | {tli['ceiling']:.4f} | {tli['alpha'][0]:.4f} | {chosen['sampler']}"
            f" | {chosen['gain'][0]:+.4f} | {_gain(best['gain'])}, {best['sampler']} | {above} of {len(others)} |"
        )
    return "\n".join(lines)


def priors(body: dict[str, Any]) -> str:
    """Each prior alone and mixed."""
    rows = [row for row in body["rows"] if row["domain"] == "all" and row["sampler"] != "tli"]
    lines = ["| rows | prior | gain alone | gain with a calibrated share of TLI |", "|---|---|---|---|"]
    for row in rows:
        if not row["sampler"].endswith(" + tli"):
            [mixed] = [
                one for one in rows if (one["n_draft"], one["sampler"]) == (row["n_draft"], f"{row['sampler']} + tli")
            ]
            lines.append(f"| {row['n_draft']:,} | {row['sampler']} | {_gain(row['gain'])} | {_gain(mixed['gain'])} |")
    return "\n".join(lines)


def decomposition(body: dict[str, Any]) -> str:
    """Both terms for every sampler that is not mixed, over all positions."""
    lines = ["| rows | sampler | gain on cold | bonus lost | gain |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['n_draft']:,} | {row['sampler']} | {row['gain on cold'][0]:.4f} | {row['bonus lost'][0]:.4f}"
        f" | {_gain(row['gain'])} |"
        for row in body["rows"]
        if row["positions"] == "all" and not row["sampler"].endswith(" + tli")
    ]
    return "\n".join(lines)


def scaling(body: dict[str, Any]) -> str:
    """RDK exact beside its first order; then draft steps at the pair's own width, and their growth from 2^14 tokens."""
    from outlex.experiments.scaling import slope

    quality = [row for row in body["rows"] if row["part"] == "quality"]
    lines = [
        "| N tokens, N/16 hot | T_Ω | α, exact | α, first order | α, TLI | distance | ms, exact | ms, first order |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for exact in (row for row in quality if row["sampler"] == "rdk-exact"):
        place = (exact["N"], exact["T_Ω"], "rdk-first-order")
        [first] = [row for row in quality if (row["N"], row["T_Ω"], row["sampler"]) == place]
        lines.append(
            f"| {exact['N']:,} | {exact['T_Ω']:g} | {exact['alpha']:.3f} | {first['alpha']:.3f} | {exact['tli']:.3f}"
            f" | {exact['distance']:.4f} | {exact['step_s'] * 1e3:.1f} | {first['step_s'] * 1e3:.1f} |"
        )
    timed = [row for row in body["rows"] if row["part"] == "step times"]
    wide = [row for row in timed if row["N"] >= 1 << 14]
    width = sorted({row["N"] for row in timed})[-2]
    lines += ["", "| draft step | ms at " + f"{width:,} tokens | of the whole head | grows as |", "|---|---|---|---|"]
    lines += [
        f"| {row['sampler']} | {row['step_s'] * 1e3:.2f} | {row['of head']:.1%} | N^{slope(wide, row['sampler']):.2f} |"
        for row in timed
        if row["N"] == width
    ]
    return "\n".join(lines)


def greedy(body: dict[str, Any]) -> str:
    """How often the arg-max moves."""
    lines = ["| rows | sampler | arg-max moved | gain | gain for a greedy target |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['n_draft']:,} | {row['sampler']} | {row['arg-max moved']:.2%} | {_gain(row['gain'])}"
        f" | {_gain(row['greedy gain'])} |"
        for row in body["rows"]
        if row["sampler"] != "tli" and not row["sampler"].endswith(" + tli")
    ]
    return "\n".join(lines)


def cascade(body: dict[str, Any]) -> str:
    """One line a setting."""
    lines = [
        "| rows | γ | trimmed→whole | whole→target | trimmed→target | MBSU cascade | whole | trimmed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['n_draft']:,} | {row['γ']} | {row['trimmed→whole'][0]:.3f} | {row['whole→target'][0]:.3f}"
        f" | {row['trimmed→target'][0]:.3f} | {row['mbsu cascade']:.2f} | {row['mbsu whole']:.2f}"
        f" | {row['mbsu trimmed']:.2f} |"
        for row in body["rows"]
    ]
    return "\n".join(lines)


def skewed(body: dict[str, Any]) -> str:
    """TLI and the best sampler of each setting."""
    lines = ["| setting | rows | TLI | highest gain |", "|---|---|---|---|"]
    for key in dict.fromkeys((row["setting"], row["n_draft"]) for row in body["rows"]):
        own = [row for row in body["rows"] if (row["setting"], row["n_draft"]) == key]
        best = max(own[1:], key=lambda row: row["gain"][0])
        lines.append(f"| {key[0]} | {key[1]:,} | {own[0]['alpha'][0]:.4f} | {_gain(best['gain'])}, {best['sampler']} |")
    return "\n".join(lines)


def respelled(body: dict[str, Any]) -> str:
    """One line a temperature and domain."""
    lines = [
        "| T | prompts | α, TLI | α, respelled | gain, 95 % interval | gain of arg-max drafts |",
        "|---|---|---|---|---|---|",
    ]
    for row in body["rows"]:
        gains = (f"{row[k][0]:+.4f} ({row[k][1]:+.4f} to {row[k][2]:+.4f})" for k in ("gain", "gain, arg-max"))
        numbers = (f"{row[k][0]:.4f}" for k in ("tli", "respelled"))
        lines.append(
            f"| {row['temperature']:g} | {row['domain']} ({row['prompts']}) | " + " | ".join([*numbers, *gains]) + " |"
        )
    return "\n".join(lines)


MAKERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "pruning": pruning,
    "priors": priors,
    "decomposition": decomposition,
    "scaling": scaling,
    "greedy": greedy,
    "cascade": cascade,
    "skewed": skewed,
    "respelled": respelled,
}


def tables() -> Iterator[tuple[str, str]]:
    """(FOLDER/NAME, table) of all recorded files."""
    for path in sorted(HERE.glob("*/*.json")):
        yield f"{path.parent.name}/{path.stem}", MAKERS[path.stem](json.loads(path.read_text(encoding="utf-8")))


def _gain(values: list[float]) -> str:
    return f"{values[0]:+.4f} ({values[1]:+.4f} to {values[2]:+.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    page = PAGE.read_text(encoding="utf-8")
    for name, table in tables():
        print(f"{name}\n\n{table}\n")
        # a table may hold backslashes: it is put in by a function, not as a pattern
        page = re.sub(
            rf"<!-- {name} -->.*?<!-- end -->",
            lambda _, block=f"<!-- {name} -->\n\n{table}\n\n<!-- end -->": block,
            page,
            flags=re.DOTALL,
        )
    if write:
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
