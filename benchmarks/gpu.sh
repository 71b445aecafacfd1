#!/bin/sh
# What a GPU is asked, in one call of at most eight minutes:
#
#     benchmarks/gpu.sh [OUT] [TRL_PYTHON]
#
# Needs a Python with `grpojax[cuda]`. With the Python of `peers/setup.sh trl FOLDER cuda`
# as a second argument, TRL takes the same steps on the same card.
set -u
cd "$(dirname "$0")/.."
out=${1:-gpu-results}
trl=${2:-}
mkdir -p "$out"
export JAX_COMPILATION_CACHE_DIR="$out/compiled"

step() {
    name=$1
    shift
    timeout 110 python benchmarks/step_throughput.py "$@" --dtype bfloat16 --phases \
        --json >"$out/$name.txt" 2>&1 || echo "$name: stopped after 110 s or failed"
    tail -n 20 "$out/$name.txt"
}

# Four of at most 110 s each; with TRL, two, and the rest of the time for the pair.
step 0.5b --model qwen2.5-0.5b --prompts 16 --group 8 --prefix 256 --time 512
step 1.5b --model qwen2.5-1.5b --prompts 16 --group 8 --prefix 256 --time 512 \
    --weights bfloat16
if [ -z "$trl" ]; then
    step 0.5b-slots --model qwen2.5-0.5b --prompts 16 --group 8 --prefix 256 \
        --time 512 --lengths exponential:128 --slots 64
    step 0.5b-trace --model qwen2.5-0.5b --steps 2 --trace "$out/trace"
else
    python benchmarks/peers/workload.py "$out/workload" --model 0.5b
    timeout 220 python benchmarks/peers/compare.py --workload "$out/workload" \
        --pairs 3 --python "trl=$trl" \
        --contestant 'ours=grpojax:{"dtype": "bfloat16"}' \
        --contestant 'trl=trl:{"dtype": "bfloat16", "cache": null, "micro_batch": 64}' \
        2>&1 | tee "$out/compare.txt"
fi
