"""Models of a few kilobytes on disk, and one way to call the command line in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from typer.testing import CliRunner, Result

from outlex.cli.app import app

END = "<|end|>"
N_ENTRIES = 320
N_ROWS = 330  # a head with padding
CONTEXT = 2048
CHAT_TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
ENGLISH = [
    "the river and the mill and the wheel of the old mill by the river run on and on",
    "a baker bakes bread for the people of the town and the town pays for the bread",
    "who counts the lights of the other shore counts them in the evening on the pier",
]
GERMAN = [
    "der Fluss und die Mühle und das Rad der alten Mühle am Fluss laufen und laufen",
    "ein Bäcker backt Brot für die Leute der Stadt und die Stadt bezahlt das Brot",
    "wer die Lichter am anderen Ufer zählt der zählt sie abends auf dem Steg",
]


def run(*arguments: object, text: str | None = None) -> Result:
    """Call `outlex` with these arguments and this text on stdin."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=text)


def json_of(result: Result) -> Any:
    """The JSON on stdout of a run that went well."""
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def traced_pair(models: Path, folder: Path, *, n_prompts: int, max_new_tokens: int) -> Path:
    """Traces of the pair on disk, in two domains."""
    lines = [{"id": str(i), "domain": "ab"[i % 2], "prompt": "the river and " * (1 + i)} for i in range(n_prompts)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    pair = ("--target", models / "target", "--drafter", models / "drafter", "--dtype", "float32")
    result = run(
        *("trace", *pair, "--prompts", folder / "prompts.jsonl", "--max-new-tokens", max_new_tokens, "--threads", 1),
        *("-o", folder / "traces"),
    )
    assert result.exit_code == 0, result.stderr
    return folder / "traces"


def tokenizer_of(texts: list[str], *, has_chat_template: bool) -> Any:
    """Byte-level BPE: 256 bytes, merges learnt from the texts, an end token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_ENTRIES,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    assert backend.get_vocab_size() == N_ENTRIES
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END)
    if has_chat_template:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_model(
    directory: Path,
    *,
    seed: int = 1,
    n_layers: int = 1,
    texts: list[str] = ENGLISH,
    has_chat_template: bool = True,
    context: int = CONTEXT,
) -> Path:
    """A random Llama; two of one seed share the layers both have, so that one can draft for the other."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tokenizer_of(texts, has_chat_template=has_chat_template)
    config = LlamaConfig(
        vocab_size=N_ROWS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        for name, weight in sorted(model.named_parameters()):
            generator = torch.Generator().manual_seed(seed + sum(map(ord, name)))
            if weight.ndim == 2:
                weight.data.normal_(0, 0.3, generator=generator)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
