#!/bin/sh
# Everything from prompts to a measured drafter. Started again, it goes on where it stopped.
#
#   examples/train_drafter/run.sh OUT [HELD_OUT.jsonl]
#
# TARGET, LAYERS, N_PROMPTS and STEPS may be set in the environment; the defaults made the drafter that outlex ships.
set -eu
out=${1:?"usage: run.sh OUT [HELD_OUT.jsonl]"}
held_out=${2:-}
target=${TARGET:-smol135}
layers=${LAYERS:-2 15 30}
here=$(dirname "$0")

for seed in 0 1; do
    # single-threaded workers side by side are quicker than one with two threads
    OMP_NUM_THREADS=1 python "$here/generate.py" --target "$target" --out "$out/run-$seed" --seed "$seed" \
        --n-prompts "${N_PROMPTS:-1920}" ${held_out:+--exclude "$held_out"} &
    workers="${workers:-} $!"
done
for worker in $workers; do
    wait "$worker"
done
python "$here/features.py" --target "$target" --run "$out/run-0" "$out/run-1" --layers $layers
python "$here/train.py" --target "$target" --run "$out/run-0" "$out/run-1" --layers $layers \
    --out "$out/drafter" --steps "${STEPS:-2400}"

if [ -n "$held_out" ]; then
    python "$here/generate.py" --target "$target" --out "$out/held-out" --prompts "$held_out" --max-prompt-tokens 2048
    python "$here/features.py" --target "$target" --run "$out/held-out" --layers $layers
    python "$here/evaluate.py" --target "$target" --run "$out/held-out" --drafter "$out/drafter/drafter" \
        --json "$out/held-out.json"
fi
