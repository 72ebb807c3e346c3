#!/bin/sh
# All experiments of docs/rdk.md, for the Qwen pair and for SmolLM2 -> Qwen. About an hour on two CPU cores with traces
# at hand.
#
#   benchmarks/rdk/run.sh TRACES TRACES_OF_SMOL RANKING OUTPUT
#
# TRACES          `outlex trace --target qwen15 --drafter qwen05 --temperature 1`, a hundred prompts or more
# TRACES_OF_SMOL  `outlex retrace --traces TRACES --drafter smol135 --cross-tokenizer`
# RANKING         of other texts than those, `outlex count`, for the sizes of the Qwen pair
# OUTPUT          directory of the JSON files: benchmarks/rdk
set -eu
qwen=$1 smol=$2 ranking=$3 out=$4
threads=${THREADS:-2}

run() { # name, traces, output, options...
    name=$1 traces=$2 to=$3
    shift 3
    start=$(date +%s)
    outlex experiment "$name" --traces "$traces" -o "$out/$to" --threads "$threads" "$@" >"$out/$to/$name.txt"
    echo "$to/$name: $(($(date +%s) - start)) s"
}

mkdir -p "$out/qwen_pair" "$out/smol_qwen"
# step times first, while the machine is cool and nothing else of this script is in memory
run scaling "$qwen" qwen_pair --limit 42
run pruning "$qwen" qwen_pair --tokens "$ranking" --limit 56 --pruned 0.9 --pruned 0.99 --pruned 0.999
run priors "$qwen" qwen_pair --tokens "$ranking" --limit 56
run decomposition "$qwen" qwen_pair --tokens "$ranking" --limit 56 --pruned 0.9 --pruned 0.99
run cascade "$qwen" qwen_pair --tokens "$ranking" --limit 56 --pruned 0.9 --pruned 0.99
run greedy "$qwen" qwen_pair --tokens "$ranking" --limit 56
run skewed "$qwen" qwen_pair --limit 96 --proposal clusters

# nothing pruned: what the drafter lacks of the target's tokens, and what the target lacks of the drafter's
run scaling "$smol" smol_qwen --limit 42
run pruning "$smol" smol_qwen --pruned 0 --pruned 0.9
run cascade "$smol" smol_qwen --pruned 0.9 --limit 56
run skewed "$smol" smol_qwen --pruned 0.9 --limit 56 --proposal clusters
run priors "$smol" smol_qwen --pruned 0 --limit 56
run decomposition "$smol" smol_qwen --pruned 0 --proposal respelled
run greedy "$smol" smol_qwen --pruned 0 --proposal respelled
rm -f "$out"/qwen_pair/*.txt "$out"/smol_qwen/*.txt
