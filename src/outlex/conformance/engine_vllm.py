"""vLLM in this process as a black box. vLLM is imported when an engine is made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from outlex.errors import InputError, ModelError
from outlex.sampling import SamplingParams

__all__ = ["VllmEngine", "json_settings"]


def json_settings(text: str | None, option: str) -> dict[str, Any] | None:
    """Settings of vLLM from JSON; `option` is for the message.

    Raises:
        InputError: no JSON object.
    """
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        value = error
    if isinstance(value, dict):
        return value
    raise InputError(
        f"What {option} says is no JSON object",
        got=f"{text:.80}: {value}" if isinstance(value, Exception) else f"{text:.80}",
        expected='such as {"model": "drafter", "num_speculative_tokens": 4} or {"enforce_eager": true}',
        next_step=f"quote it for the shell: {option} '{{...}}'",
    )


class VllmEngine:
    """`vllm.LLM` with or without drafts (protocols `Engine` and `CountsDrafts`). Outputs of one prompt share batches.

    Args:
        model: what vLLM loads as target: a directory or a Hub id.
        speculative: vLLM's speculative_config; None decodes without drafts, which is the control.
        dtype: float32, bfloat16 or float16.
        max_model_len: longest context that is planned for.
        settings: any other argument of `vllm.LLM`.

    Raises:
        InputError: settings that another argument has.
        ModelError: vLLM is not installed, or it refuses the model or the config.
    """

    def __init__(
        self,
        model: str,
        *,
        speculative: Mapping[str, Any] | None,
        dtype: str,
        max_model_len: int = 1024,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        twice = sorted({"model", "dtype", "speculative_config"} & set(settings or {}))
        if twice:
            # what is judged, and how strictly, would be another thing than the report says
            raise InputError(
                f"An argument of vLLM is said elsewhere: {', '.join(twice)}",
                got=f"{twice[0]} in --engine-args",
                expected="--target, --engine-dtype and --speculative-config",
                next_step=f"take {' and '.join(twice)} out of --engine-args",
            )
        try:
            import vllm
        except ImportError as error:
            raise ModelError(
                "vLLM is not installed in this environment",
                got=error,
                next_step="run outlex where vLLM is installed; docs/engines.md says how",
            ) from error
        arguments: dict[str, Any] = {
            "model": model,
            "dtype": dtype,
            "max_model_len": max_model_len,
            # answers from a prefix cache are as good, but drafts of a cached prompt are another code path
            "enable_prefix_caching": False,
            "generation_config": "vllm",  # nothing from the checkpoint's own filters
            "disable_log_stats": False,  # what it drafted is counted there
            **(settings or {}),
        }
        if speculative is not None:
            arguments["speculative_config"] = dict(speculative)
        try:
            self._llm: Any = vllm.LLM(**arguments)
        except Exception as error:  # whatever the engine raises while it starts
            raise ModelError(
                "vLLM does not start with this model",
                got=_last_line(error),
                next_step="try the same with vLLM alone; --engine-dtype float32 where the CPU has no bfloat16",
            ) from error
        self._counts = not arguments["disable_log_stats"]
        self._params: Any = vllm.SamplingParams
        drafted = "no drafts" if speculative is None else json.dumps(dict(speculative), sort_keys=True)
        self.name = f"vllm {vllm.__version__}: {model}, {drafted}"
        self.dtype = dtype

    @property
    def n_accepted(self) -> int | None:
        """Draft tokens accepted so far; None without vLLM's statistics (`disable_log_stats` in the settings)."""
        if not self._counts:
            return None
        metrics = {metric.name: metric for metric in self._llm.get_metrics()}
        counter = metrics.get("vllm:spec_decode_num_accepted_tokens")  # not there without a speculative config
        return 0 if counter is None else int(counter.value)

    def sample(
        self, prompt_ids: Sequence[int], *, params: SamplingParams, n_samples: int, max_new_tokens: int, seed: int
    ) -> list[tuple[int, ...]]:
        # seeded requests take another path through vLLM's sampler: what is judged is what users run, without seeds
        del seed
        wanted = self._params(
            n=1 if params.greedy else n_samples,
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            repetition_penalty=params.repetition_penalty,
            max_tokens=max_new_tokens,
            ignore_eos=True,
            detokenize=False,
        )
        # vLLM refuses several greedy outputs for one request
        prompts = [{"prompt_token_ids": list(prompt_ids)}] * (n_samples if params.greedy else 1)
        try:
            finished = self._llm.generate(prompts, wanted, use_tqdm=False)
        except Exception as error:  # whatever the engine raises: a request it does not take, or its own end
            raise ModelError(
                "vLLM did not answer a request",
                got=_last_line(error),
                next_step="it takes no --min-p with speculative decoding; longer prompts want"
                " --engine-args '{\"max_model_len\": 4096}'",
            ) from error
        return [tuple(output.token_ids) for request in finished for output in request.outputs]


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1]}"
