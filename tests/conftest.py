"""Settings and fixtures that every test shares."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from outlex.errors import DownloadError

if TYPE_CHECKING:
    from outlex.models import LanguageModel

# These have to be set before anything imports torch, tokenizers or huggingface_hub, which read them once.
# Processes that tests start inherit them.
#
# One OpenMP thread: toy tensors gain nothing from more, sums come out in the same order on every machine, and
# on a busy machine each parallel region can cost milliseconds of waiting for threads that are not running.
os.environ["OMP_NUM_THREADS"] = "1"
# The hub is never asked: every machine tests the same pinned checkpoint, and no test waits for a time-out.
os.environ["HF_HUB_OFFLINE"] = "1"
# Some tests start processes, and tokenizers would warn about its own threads after each fork.
os.environ["TOKENIZERS_PARALLELISM"] = "false"

pytest_plugins = ["toy_tokenizers", "cli_fixtures"]  # tests/support

REQUIRE_REAL_MODEL = "OUTLEX_REQUIRE_REAL_MODEL"

# The same examples everywhere and every time: a failure in continuous integration can be repeated at a desk.
# The speed of the machine (deadlines, slow data generation) must not decide whether a test passes.
settings.register_profile(
    "outlex",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("outlex")


@pytest.fixture(scope="session")
def smol135() -> LanguageModel:
    """SmolLM2-135M in float32, fetched on first use.

    Skips when it cannot be fetched; with `OUTLEX_REQUIRE_REAL_MODEL=1` (set by `.ci/run`) that is a failure.
    """
    import torch

    from outlex.models import load_model

    try:
        return load_model("smol135", dtype=torch.float32, threads=1)
    except DownloadError as error:
        if os.environ.get(REQUIRE_REAL_MODEL) == "1":
            raise
        pytest.skip(f"the real model cannot be fetched (set {REQUIRE_REAL_MODEL}=1 to fail instead): {error}")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder `shared` beside the checkout: prompts and notes that outlex itself does not need."""
    path = Path(__file__).resolve().parents[2] / "shared"
    if not path.is_dir():
        pytest.skip("there is no folder `shared` beside the checkout")
    return path
