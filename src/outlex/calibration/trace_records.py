"""What `trace.json` says: the models, how the text came about, the prompts, and the shards with their checksums."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from outlex.drafters.eagle import EagleDrafter
from outlex.errors import ArtifactError, MismatchError
from outlex.models.output_head import output_head
from outlex.models.runner import BodyRunner

if TYPE_CHECKING:
    from outlex.heads.linear import LinearHead
    from outlex.models.language_model import LanguageModel

__all__ = [
    "PROMPT_TOP",
    "SCHEMA",
    "ShardEntry",
    "TraceHeader",
    "TraceSettings",
    "TracedModel",
    "TracedPrompt",
    "header_bytes",
    "parse_header",
]

KIND = "outlex-traces"
SCHEMA = 2
PROMPT_TOP = 8  # of the target's most probable tokens, as many are kept a prompt position


@dataclass(frozen=True, kw_only=True)
class TracedModel:
    """One of the two models, as far as a forecast needs it.

    Attributes:
        name, source: as in `LanguageModel`.
        dtype: of weights and hidden states, "bfloat16" for example.
        n_rows: rows of the LM head, padding included.
        hidden_size: width of the hidden states.
        scale, softcap: of the LM head, see `LinearHead`.
        has_bias: whether the LM head has a bias.
        head_fingerprint: see `LinearHead.fingerprint`.
        body_bytes: weights that one step reads, LM head left out.
        head_bytes: weights of the LM head.
        head_source: what `load_model` loads the model by whose LM head and tokenizer these are; None for `source`. An
            EAGLE drafter has those of its target.
    """

    name: str
    source: str
    dtype: str
    n_rows: int
    hidden_size: int
    scale: float
    softcap: float
    has_bias: bool
    head_fingerprint: str
    body_bytes: int
    head_bytes: int
    head_source: str | None = None

    @classmethod
    def of(cls, loaded: LanguageModel | EagleDrafter) -> TracedModel:
        """Describe a loaded model.

        Raises:
            ModelError: its head or its cache cannot be used, see `output_head` and `BodyRunner`.
        """
        if isinstance(loaded, EagleDrafter):
            head, owner, body_bytes = loaded.full_head, loaded.target, loaded.body_bytes
        else:
            head, owner, body_bytes = output_head(loaded), loaded, BodyRunner(loaded).bytes_per_step
        return cls(
            name=loaded.name,
            source=loaded.source,
            dtype=str(owner.dtype).removeprefix("torch."),
            n_rows=head.n_rows,
            hidden_size=int(head.weight.shape[1]),
            scale=head.scale,
            softcap=head.softcap,
            has_bias=head.bias is not None,
            head_fingerprint=head.fingerprint,
            body_bytes=body_bytes,
            head_bytes=head.n_bytes,
            head_source=None if owner is loaded else owner.source,
        )

    def check(self, head: LinearHead, *, role: str) -> None:
        """Check that this is the head that the hidden states belong to.

        Raises:
            MismatchError: another width, other rows or other weights.
        """
        shape = (head.n_rows, int(head.weight.shape[1]))
        if shape == (self.n_rows, self.hidden_size) and head.fingerprint == self.head_fingerprint:
            return
        raise MismatchError(
            f"The traces were made with another {role}",
            got=f"an LM head of {shape[0]} rows × {shape[1]}"
            + (" with other weights" if shape == (self.n_rows, self.hidden_size) else ""),
            expected=f"that of {self.name}: {self.n_rows} rows × {self.hidden_size}, {self.head_fingerprint[:12]}",
            next_step=f"use {self.source!r} as {role}, or trace this pair with `outlex trace`",
        )


@dataclass(frozen=True, kw_only=True)
class TraceSettings:
    """How the text came about. Traces with other settings cannot be added to the same directory.

    Attributes:
        temperature: the text was sampled at; 0 is greedy. None if the responses were given.
        seed: every prompt's own seed follows from it and from the prompt's id.
        max_new_tokens: responses were cut there.
        batch_size: prompts sampled in one forward; it changes the rounding, and nothing else.
    """

    temperature: float | None
    seed: int
    max_new_tokens: int
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class TracedPrompt:
    """One prompt and its response.

    Attributes:
        id: unique in its traces.
        domain: the group it is reported with.
        digest: sha256 of the prompt's token ids (and of the response's, if it was given).
        n_prompt: tokens of the prompt.
        n_positions: tokens of the response, each a row of the traces.
        finish_reason: "stop" (the last token ends the text) or "length".
    """

    id: str
    domain: str
    digest: str
    n_prompt: int
    n_positions: int
    finish_reason: str


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One tensor file: name, size, checksum, and how many positions it holds."""

    name: str
    n_bytes: int
    sha256: str
    n_positions: int


@dataclass(frozen=True, kw_only=True)
class TraceHeader:
    """All of `trace.json`.

    Attributes:
        target, drafter: the models.
        tokenizer_fingerprint, n_tokenizer: of the target, see `TokenizerFacts`.
        drafter_tokenizer: fingerprint of the drafter's, if it was let have another one.
        stop_ids: tokens that end a text for either model, ascending.
        settings: how the text came about.
        prompts: in the order of the rows.
        shards: in the order of the rows.
    """

    target: TracedModel
    drafter: TracedModel
    tokenizer_fingerprint: str
    n_tokenizer: int
    stop_ids: tuple[int, ...] = field(repr=False)
    settings: TraceSettings
    drafter_tokenizer: str | None = None
    prompts: tuple[TracedPrompt, ...] = field(default=(), repr=False)
    shards: tuple[ShardEntry, ...] = field(default=(), repr=False)

    @property
    def n_positions(self) -> int:
        return sum(prompt.n_positions for prompt in self.prompts)

    def with_shard(self, shard: ShardEntry, prompts: tuple[TracedPrompt, ...]) -> TraceHeader:
        """The header after one more shard."""
        return replace(self, prompts=(*self.prompts, *prompts), shards=(*self.shards, shard))


def header_bytes(header: TraceHeader) -> bytes:
    """The file: JSON with a checksum over its own values."""
    body = {"kind": KIND, "schema": SCHEMA, **asdict(header)}
    body["checksum"] = _checksum(json.loads(json.dumps(body)))
    return json.dumps(body, indent=1, allow_nan=False).encode() + b"\n"


def parse_header(data: bytes) -> TraceHeader:
    """The header in `data`.

    Raises:
        ArtifactError: of another schema.
        ValueError, KeyError, TypeError: cut off, changed, or of another kind.
    """
    body: dict[str, Any] = json.loads(data)
    if not isinstance(body, dict) or body.get("kind") != KIND:
        raise ValueError(f"not of kind {KIND}")
    if body["schema"] != SCHEMA:
        raise ArtifactError(
            "These traces were written by another version of outlex",
            got=f"schema {body['schema']!r}",
            expected=f"schema {SCHEMA}, which holds the prompts too",
            next_step="trace again into a new directory: repeat the `outlex trace` command with another -o",
        )
    if body.pop("checksum") != _checksum(body):
        raise ValueError("its values were changed after it was written")
    del body["kind"], body["schema"]
    return TraceHeader(
        target=TracedModel(**body.pop("target")),
        drafter=TracedModel(**body.pop("drafter")),
        settings=TraceSettings(**body.pop("settings")),
        prompts=tuple(TracedPrompt(**prompt) for prompt in body.pop("prompts")),
        shards=tuple(ShardEntry(**shard) for shard in body.pop("shards")),
        stop_ids=tuple(body.pop("stop_ids")),
        **body,
    )


def _checksum(body: dict[str, Any]) -> str:
    rest = {key: value for key, value in body.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
