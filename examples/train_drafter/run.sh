#!/bin/sh
# Everything from prompts to a measured drafter. Started again, it goes on where it stopped.
#
#   examples/train_drafter/run.sh OUT [HELD_OUT.jsonl]
#
# TARGET, LAYERS, N_PROMPTS, STEPS and MORE_STEPS may be set in the environment. The defaults are how the drafter was made
# that outlex ships, except that its first stage was asked for 2,400 steps and ended after 1,000 of them.
set -eu
out=${1:?"usage: run.sh OUT [HELD_OUT.jsonl]"}
held_out=${2:-}
target=${TARGET:-smol135}
layers=${LAYERS:-2 15 30}
here=$(dirname "$0")

for seed in 0 1; do
    # single-threaded workers side by side are quicker than one with two threads
    OMP_NUM_THREADS=1 python "$here/generate.py" --target "$target" --out "$out/run-$seed" --seed "$seed" \
        --n-prompts "${N_PROMPTS:-1250}" ${held_out:+--exclude "$held_out"} &
    workers="${workers:-} $!"
done
for worker in $workers; do
    wait "$worker"
done
python "$here/features.py" --target "$target" --run "$out/run-0" "$out/run-1" --layers $layers
# first the law, with few draft positions, which is quick; then acceptance itself, with all of them
python "$here/train.py" --target "$target" --run "$out/run-0" "$out/run-1" --layers $layers \
    --out "$out/law" --steps "${STEPS:-1000}" --unroll 2
python "$here/train.py" --target "$target" --run "$out/run-0" "$out/run-1" --layers $layers --begin-with "$out/law" \
    --out "$out/drafter" --steps "${MORE_STEPS:-900}" --first-unroll 2 --rejection-weight 0.8

if [ -n "$held_out" ]; then
    python "$here/generate.py" --target "$target" --out "$out/held-out" --prompts "$held_out" --max-prompt-tokens 2048
    python "$here/features.py" --target "$target" --run "$out/held-out" --layers $layers
    python "$here/evaluate.py" --target "$target" --run "$out/held-out" --drafter "$out/drafter/drafter" \
        --json "$out/held-out.json"
fi
