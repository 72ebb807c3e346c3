"""One HTML page out of a directory of results. It holds everything it needs, and asks for nothing."""

from __future__ import annotations

import base64
import hashlib
import os
from importlib.resources import files
from pathlib import Path

from outlex import __version__
from outlex.atomic import make_directories, replace_file
from outlex.errors import ArtifactError, InputError
from outlex.report.figure import breakable
from outlex.report.markup import Markup, join, tag
from outlex.report.reading import Results, read_results

__all__ = ["page_of", "write_report"]

_HATCHES = {1: "M0 6L6 0", 3: "M0 0L6 6M0 6L6 0"}  # of stacked parts, by number


def write_report(
    directory: str | os.PathLike[str], output: str | os.PathLike[str], *, title: str | None = None
) -> Results:
    """Read a directory and write its page in one step.

    Args:
        directory: with results; see `read_results`.
        output: the file, replaced if it exists; its folder is made.
        title: of the page; the directory's name by default.

    Raises:
        InputError: no directory, no result in it, or an output that is a folder.
        ArtifactError: a damaged result, or a disk that refuses.
    """
    output = Path(output)
    if output.is_dir():
        raise InputError(
            "The page cannot be written there",
            got=f"{output}, a folder",
            expected="a file",
            next_step=f"write it into the folder: -o {output / 'report.html'}",
        )
    results = read_results(directory)
    page = page_of(results, title=title or Path(directory).resolve().name)
    try:
        make_directories(output.parent)
        # text out of models may hold halves of surrogate pairs, which are in no encoding
        replace_file(output, page.encode("utf-8", "replace"))
    except OSError as error:
        raise ArtifactError(
            "The page cannot be written",
            got=error,
            expected="a folder that can be written to, and room in it",
            next_step="choose another file with -o",
        ) from error
    return results


def page_of(results: Results, *, title: str) -> str:
    """The page of some results as HTML."""
    style, script = _part("page.css"), _part("page.js")
    # the two parts by their hashes, and nothing else: a page with a hole in its escaping would still run nothing
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'"
    anchors = [f"s{k}" for k in range(1, len(results.sections) + 1)]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("title", f"{title} · outlex report"),
        tag("link", rel="icon", href="data:,"),
        tag("style", Markup(style)),
    )
    contents = tag(
        "nav",
        tag(
            "ol",
            *(
                tag("li", tag("a", section.title, href=f"#{anchor}"), tag("small", *breakable(section.source.name)))
                for anchor, section in zip(anchors, results.sections, strict=True)
            ),
        ),
        aria_label="Contents",
    )
    body = tag(
        "body",
        _hatches(),
        tag("a", "Skip to the results", href="#results", class_="skip"),
        tag(
            "header",
            tag("p", "outlex report", class_="kicker"),
            tag("h1", title),
            tag("p", _summary(results), class_="lead"),
        ),
        tag(
            "div",
            contents,
            tag(
                "main",
                *(section.html(anchor) for anchor, section in zip(anchors, results.sections, strict=True)),
                id="results",
            ),
            class_="columns",
        ),
        tag("footer", *_closing(results)),
        tag("div", id="tip", role="tooltip", hidden=True),
        tag("script", Markup(script)),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _summary(results: Results) -> str:
    n_figures = sum(len(section.figures) for section in results.sections)
    return (
        f"{n_figures} figures from {len(results.sections)} result files. Intervals are 95 %, with prompts as clusters,"
        " unless a figure says otherwise; below each figure are its numbers as a table and where they come from."
    )


def _closing(results: Results) -> list[Markup]:
    parts = [tag("p", f"Made by outlex {__version__} from the JSON files alone; nothing was measured anew.")]
    if results.unknown:
        names = join(*(tag("code", name) for name in results.unknown), between=", ")
        parts.append(tag("p", "JSON files that are no results of outlex and were left out: ", names, "."))
    return parts


def _hatches() -> Markup:
    patterns = [
        tag(
            "pattern",
            tag("path", d=path, class_="hatch"),
            id=f"hatch{k}",
            width="6",
            height="6",
            patternUnits="userSpaceOnUse",
        )
        for k, path in _HATCHES.items()
    ]
    return tag("svg", tag("defs", *patterns), width="0", height="0", class_="defs", aria_hidden="true")


def _part(name: str) -> str:
    return (files("outlex.report") / name).read_text(encoding="utf-8")


def _hash(part: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"
