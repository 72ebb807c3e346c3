"""Generated text, each token in the look of where it came from, with the two laws behind it a touch away."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from outlex.report.drawing import data_of, line, svg, text
from outlex.report.figure import Figure
from outlex.report.markup import Markup, data_block, join, tag
from outlex.report.scale import Scale
from outlex.report.table import Table
from outlex.report.values import Value, number, optional

__all__ = ["BetaStrip", "token_figures"]

_KINDS = {
    "accepted": "accepted draft",
    "recovered": "recovered after a rejection",
    "bonus": "bonus of the target",
}
_OOV = "not in the draft vocabulary"
_NARROW = 480

Token = dict[str, Any]


def token_figures(tokens: list[Token], *, prompt: str, rests_on: str) -> tuple[Figure, ...]:
    """The text, and β at each tested position.

    Args:
        tokens: as `outlex.decode.token_trace.TokenTrace.to_json` makes them.
        prompt: that the text answers.
        rests_on: for the provenance.

    Raises:
        LookupError, TypeError, ValueError: a token lacks something, or is of no known kind.
    """
    wrong = {str(token["kind"]) for token in tokens} - _KINDS.keys()
    if wrong:
        raise ValueError(f"tokens of kind {', '.join(sorted(wrong))}")
    compact = [_compact(token) for token in tokens]
    # made from the contents: the same page comes out of the same files
    name = f"trace-{hashlib.sha256(json.dumps(compact).encode()).hexdigest()[:12]}"
    view = tag(
        "div",
        tag("p", tag("strong", "Prompt: "), prompt, class_="prompt"),
        _legend(tokens),
        tag(
            "div",
            _text(tokens, name),
            tag(
                "div",
                tag("p", "Point at a token, tap it, or move through the text with the arrow keys.", class_="hint"),
                class_="detail",
                id=f"{name}-detail",
                role="status",
                aria_live="polite",
            ),
            class_="trace",
            data_trace=name,
        ),
        data_block(compact, id_=name),
    )
    figures = [
        Figure(
            title="The text, token by token",
            note="A recovered token was drawn from norm(max(p − q̃, 0)) in place of a rejected draft. A bonus token is"
            " the target's own, after a block whose drafts all stood. Thin bars are the ends of blocks.",
            content=view,
            table=_table(tokens),
            rests_on=rests_on,
        )
    ]
    strip = BetaStrip(tokens=tuple(tokens))
    if any(token["beta"] is not None for token in tokens):
        figures.append(
            Figure(
                title="How probable acceptance was",
                note="β = Σ min(p, q̃) at each position that a draft was tested at, in the order of the text.",
                content=strip,
                table=Table(
                    name="β at each token",
                    columns=("number", "token", "kind", "β"),
                    rows=tuple(
                        (k, _shown(token), token["kind"], optional(token["beta"]))
                        for k, token in enumerate(tokens, start=1)
                    ),
                ),
                rests_on=rests_on,
            )
        )
    return tuple(figures)


@dataclass(frozen=True, kw_only=True)
class BetaStrip:
    """β at each token, one bar each, in the colour of the token's kind.

    Attributes:
        tokens: of the generation; those without a tested draft leave a gap.
    """

    tokens: tuple[Token, ...]

    @property
    def label(self) -> str:
        return "The probability that a draft is accepted, at each tested position of the text."

    @property
    def legend(self) -> Markup:
        kinds = {"accepted": "the draft was accepted", "recovered": "it was rejected"}
        items = []
        for kind, words in kinds.items():
            box = tag("rect", x=1, y=1, width=14, height=12, class_=f"beta {kind}")
            swatch = tag("svg", box, viewBox="0 0 16 14", width=16, height=14, aria_hidden="true")
            items.append(tag("li", swatch, tag("span", words)))
        return tag("ul", *items, class_="legend")

    def draw(self, width: int) -> Markup:
        height, top, bottom = 110.0, 10.0, 92.0
        left = 30.0
        y = Scale(low=0.0, high=1.0, start=bottom, end=top)
        step = (width - left - 4) / len(self.tokens)
        bars = []
        for k, token in enumerate(self.tokens):
            beta = optional(token["beta"])
            if beta is not None:
                tip = f"{_shown(token)}\n{_KINDS[token['kind']]}, β: {beta:.3f}"
                bars.append(
                    tag(
                        "rect",
                        x=left + k * step,
                        y=y(beta),
                        width=max(step - (1 if step > 3 else 0), 0.6),
                        height=max(bottom - y(beta), 1.0),
                        class_=f"beta {token['kind']}",
                        **data_of(Value(value=beta), tip),
                    )
                )
        grid = [
            join(
                line(left, y(v), width - 4.0, y(v), "grid"),
                text(left - 6, y(v) + 4, f"{v:g}", anchor="end", class_="tick"),
            )
            for v in (0.0, 0.5, 1.0)
        ]
        return svg(width, height, self.label, *grid, *bars)


def _text(tokens: list[Token], name: str) -> Markup:
    parts = []
    for k, token in enumerate(tokens):
        classes = ["tok", str(token["kind"])] + (["oov"] if token["in_draft"] is False else [])
        last = k + 1 == len(tokens) or tokens[k + 1]["block"] != token["block"]
        said = _KINDS[token["kind"]] + (f", {_OOV}" if token["in_draft"] is False else "")
        shown = str(token["text"])
        word = shown.lstrip(" ")
        if word:  # the space before a word stays outside: a line may end there
            parts.append(join(shown[: len(shown) - len(word)]))
        piece = join(*_visible(word)) if word else tag("i", _shown(token))
        parts.append(
            tag(
                "span",
                piece,
                class_=" ".join(classes),
                data_i=k,
                role="button",
                tabindex="0" if k == 0 else "-1",
                aria_describedby=f"{name}-detail",
                aria_label=f"{_shown(token)}: {said}",
            )
        )
        if last:
            parts.append(tag("span", class_="end", aria_hidden="true"))
    return tag("div", *parts, class_="text", role="group", aria_label="Generated text, one button a token")


def _visible(words: str) -> list[object]:
    """Line breaks are shown, and then made."""
    parts: list[object] = []
    for k, piece in enumerate(words.split("\n")):
        if k:
            parts += [tag("i", "↵"), "\n"]
        parts.append(piece or None)
    return parts


def _legend(tokens: list[Token]) -> Markup:
    counts = {kind: sum(token["kind"] == kind for token in tokens) for kind in _KINDS}
    items = [
        tag("li", tag("span", "token", class_=f"tok {kind}"), f" {words}: {counts[kind]}")
        for kind, words in _KINDS.items()
    ]
    n_oov = sum(token["in_draft"] is False for token in tokens)
    items.append(tag("li", tag("span", "token", class_="tok oov"), f" {_OOV}, whatever its origin: {n_oov}"))
    return tag("ul", *items, class_="legend")


def _table(tokens: list[Token]) -> Table:
    draft = [None if token["draft"] is None else _shown(token["draft"]) for token in tokens]
    return Table(
        name="Every token",
        columns=("number", "token", "origin", "p", "q̃", "β", "in the draft vocabulary", "rejected draft"),
        rows=tuple(
            (
                k,
                _shown(token),
                token["kind"],
                optional(token["p"]),
                optional(token["q"]),
                optional(token["beta"]),
                token["in_draft"],
                rejected,
            )
            for k, (token, rejected) in enumerate(zip(tokens, draft, strict=True), start=1)
        ),
    )


def _compact(token: Token) -> dict[str, Any]:
    """What the page's script shows of a token, under short names."""
    return {
        "t": _shown(token),
        "k": token["kind"],
        "o": None if token["in_draft"] is None else not token["in_draft"],
        "p": number(token["p"]),
        "q": optional(token["q"]),
        "b": optional(token["beta"]),
        "d": None if token["draft"] is None else _entry(token["draft"]),
        "P": [_entry(entry) for entry in token["top_p"]],
        "Q": [_entry(entry) for entry in token["top_q"]],
    }


def _entry(entry: Token) -> list[Any]:
    return [_shown(entry), optional(entry["p"]), optional(entry["q"])]


def _shown(token: Token) -> str:
    """A token as a word: spaces and line breaks made visible."""
    if token["token_id"] == -1:
        return "a token the target does not know"
    piece = str(token["piece"]).replace("\n", "↵").replace("\t", "⇥")
    return piece.replace(" ", "␣") if piece.strip(" ") == "" else piece
