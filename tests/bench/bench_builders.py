"""Models of a few kilobytes, rows made by hand, and methods that only pretend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from outlex.bench.result import BenchResult
from outlex.bench.rows import MethodInfo, Row, Run
from outlex.drafters.trimmed import TrimmedDrafter, trim
from outlex.models.language_model import LanguageModel
from outlex.sampling import SamplingParams
from outlex.vocab.sub_vocab import SubVocab
from outlex.vocab.tokenizer_facts import facts_of

END = "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@cache
def byte_tokenizer() -> Any:
    """One token a byte, an end token, and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_model(*, name: str, seed: int, n_rows: int = 260, n_layers: int = 2) -> LanguageModel:
    """A random Llama in float32 whose logits are far enough apart that greedy decoding has no near-ties."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=n_rows,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        eos_token_id=byte_tokenizer().eos_token_id,
        bos_token_id=None,
        pad_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
    model.get_output_embeddings().weight.mul_(15.0)
    return LanguageModel(
        model=model,
        tokenizer=byte_tokenizer(),
        name=name,
        source=f"/somewhere/{name}",
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


@cache
def tiny_pair() -> tuple[LanguageModel, LanguageModel]:
    """A target, and a drafter that agrees with it now and then: the target with one layer less."""
    target = tiny_model(name="tiny-target", seed=1)
    drafter = tiny_model(name="tiny-drafter", seed=1, n_layers=1)
    theirs = dict(target.model.state_dict())
    drafter.model.load_state_dict({key: theirs[key] for key in drafter.model.state_dict()})
    return target, drafter


@cache
def tiny_trimmed(size: int) -> TrimmedDrafter:
    """The first `size` rows of the tiny drafter's head."""
    facts = facts_of(byte_tokenizer())
    vocab = SubVocab(
        draft_to_target=torch.arange(size),
        n_target=260,
        n_tokenizer=facts.n_entries,
        tokenizer_fingerprint=facts.fingerprint,
        provenance={"file": "/home/someone/counts.json"},
    )
    return trim(tiny_pair()[1], vocab)


def row(**changes: Any) -> Row:
    """A run of "ar" on prompt "a"; 4 tokens in 2 seconds."""
    values: dict[str, Any] = {
        "token_ids": (1, 2, 3, 4),
        "n_passes": 4,
        "n_drafted": 0,
        "n_accepted": 0,
        "n_tested": 0,
        "sum_beta": 0.0,
        "draft_s": 0.0,
        "target_s": 1.5,
        "draft_step_s": None,
        "target_pass_s": 0.5,
        "method": "ar",
        "prompt_id": "a",
        "domain": "code",
        "n_prompt": 3,
        "temperature": 0.0,
        "repeat": 0,
        "order": 0,
        "seed": 0,
        "wall_s": 2.0,
    }
    return Row(**{**values, **changes})


def result_of(rows: list[Row], *, draft_len: int = 4) -> BenchResult:
    """A result with these rows and whatever else it needs."""
    model = {"name": "tiny", "dtype": "float32", "source": "tiny", "n_bytes": 10**9}
    return BenchResult(
        config={"draft_len": draft_len, "max_new_tokens": 4, "repeats": 1},
        environment={
            "cpu": "a processor",
            "threads": 2,
            "openmp": ["libiomp5.so"],
            "device_name": None,
            "commit": "0123456789abcdef",
            "uncommitted_changes": True,
            "date_utc": "2026-01-01T00:00:00+00:00",
            "versions": {"torch": "2", "transformers": "5", "outlex": "0.1"},
        },
        models={
            "target": model,
            "drafter": {**model, "source": "small", "n_bytes": 5 * 10**8},
            "trimmed": [],
        },
        memory={"peak_rss": 2 * 10**9, "anonymous": None, "peak_device": None},
        methods=tuple(
            MethodInfo(name=name, description=name, draft_bytes=100, target_bytes=400)
            for name in dict.fromkeys(r.method for r in rows)
        ),
        rows=tuple(rows),
    )


@dataclass
class FakeClock:
    """Time that passes only when somebody says so."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class FakeMethod:
    """Takes `wall_s` of the fake clock and `paused_s` more; notes each call in a list shared by all."""

    name: str
    clock: FakeClock
    wall_s: float = 1.0
    paused_s: float = 0.0
    calls: list[tuple[str, int, float, int, int]] = field(default_factory=list)
    before: Callable[[list[int]], None] = lambda prompt_ids: None

    @property
    def info(self) -> MethodInfo:
        return MethodInfo(name=self.name, description="pretends")

    def run(self, prompt_ids: list[int], params: SamplingParams, *, max_new_tokens: int, seed: int) -> Run:
        self.before(prompt_ids)
        self.calls.append((self.name, len(prompt_ids), params.temperature, max_new_tokens, seed))
        self.clock.seconds += self.wall_s + self.paused_s
        return Run(token_ids=(7,) * max_new_tokens, paused_s=self.paused_s)
