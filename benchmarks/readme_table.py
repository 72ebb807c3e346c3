"""Print the README's results table from a recorded benchmark: python benchmarks/readme_table.py [RESULT.json]"""

from __future__ import annotations

import sys
from pathlib import Path

from outlex.bench import BenchResult

RESULT = Path(__file__).parent / "qwen_pair" / "result.json"


def readme_table(result: BenchResult) -> str:
    """Markdown, one row a method and temperature."""
    lines = [
        "| temperature | method | tokens/s | × autoregressive | α (mean β) | τ | draft step | outside the models |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for s in result.summary:
        speedup, alpha = s.speedup_over("ar"), "–"
        if s.acceptance is not None:
            beta = s.acceptance.beta
            alpha = f"{beta.value:.3f} ± {beta.high - beta.value:.3f}"
        step = f"{1000 * s.draft_step_s:.0f} ms" if s.draft_step_s else "–"
        outside = f"{s.other_s / s.wall_s:.1%}" if s.other_s is not None else "–"
        cells = [
            f"{s.temperature:g}",
            s.method,
            f"{s.tokens_per_s:.2f}",
            f"{speedup.totals:.2f}" if speedup else "1.00",
            alpha,
            f"{s.block_efficiency:.2f}" if s.block_efficiency else "–",
            step,
            outside,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(readme_table(BenchResult.load(sys.argv[1] if len(sys.argv) > 1 else RESULT)))
