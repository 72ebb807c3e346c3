"""Step 3: train an EAGLE-3 drafter on stored features, in the plainest way that works.

    python examples/train_drafter/train.py --target smol135 --run RUN --out DRAFTER --steps 3000

Started again, a run goes on exactly where its last checkpoint was. `training.py` says what is learnt.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from training import Settings, Training

from outlex import load_model

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--target", required=True, help="what outlex.load_model takes")
    parser.add_argument("--run", type=Path, nargs="+", required=True, help="folders with features-*.safetensors")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints and log")
    parser.add_argument("--begin-with", type=Path, help="--out of another run, to begin with its weights")
    parser.add_argument("--layers", type=int, nargs="+", required=True, help="of the target, that the drafter reads")
    parser.add_argument("--intermediate-size", type=int, default=896)
    parser.add_argument("--n-heads", type=int, default=6, help="of queries, keys and values")
    parser.add_argument("--head-dim", type=int, default=96)
    parser.add_argument("--rope-theta", type=float, default=1e8)
    parser.add_argument("--steps", type=int, default=3000, help="optimizer steps, all of them together")
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--unroll", type=int, default=4, help="draft positions that are trained")
    parser.add_argument("--first-unroll", type=int, default=1, help="draft positions at the first step")
    parser.add_argument("--hot", type=int, default=4096, help="size of the draft vocabulary of the loss")
    parser.add_argument("--rejection-weight", type=float, default=0.0, help="of 1 − Σ min(p, q) in the loss")
    parser.add_argument("--answers-only", action="store_true", help="learn no laws inside of prompts")
    parser.add_argument("--measure-every", type=int, default=200, help="steps between measurements and checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args(arguments))
    target = load_model(options.pop("target"), progress=False)
    places = {"runs": options.pop("run"), "out": options.pop("out"), "begin_with": options.pop("begin_with")}
    options["layers"] = tuple(options["layers"])
    Training(Settings(**options), target, **places).run()


if __name__ == "__main__":
    main()
