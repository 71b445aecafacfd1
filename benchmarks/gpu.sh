#!/bin/sh
# What a GPU is asked, in one call of at most eight minutes:
#
#     benchmarks/gpu.sh [OUT] [TRL_PYTHON]
#
# Needs a Python with `grpojax[cuda]`, named by PYTHON if it is another than `python`.
# With the Python of `peers/setup.sh trl FOLDER cuda` as a second argument, TRL takes the
# same steps on the same card. All programs are compiled at the same time, which is most
# of those minutes, and then run one after the other.
set -u
cd "$(dirname "$0")/.."
out=${1:-gpu-results}
trl=${2:-}
python=${PYTHON:-python}
size="--prompts 16 --group 8 --prefix 256 --time 512"
mkdir -p "$out"
export JAX_COMPILATION_CACHE_DIR="$out/compiled"
# Several processes share the card.
export XLA_PYTHON_CLIENT_PREALLOCATE=false

step() {
    name=$1
    shift
    timeout 200 "$python" benchmarks/step_throughput.py $size --dtype bfloat16 "$@" \
        >"$out/$name.txt" 2>&1 || echo "$name: stopped or failed, see $out/$name.txt"
}

compare() {
    pairs=$1
    shift
    timeout 270 "$python" benchmarks/peers/compare.py --workload "$out/workload" \
        --pairs "$pairs" --warmup 0 \
        --contestant 'ours=grpojax:{"dtype": "bfloat16"}' "$@"
}

small="--model qwen2.5-0.5b"
large="--model qwen2.5-1.5b --weights bfloat16"
(
    export XLA_PYTHON_CLIENT_ALLOCATOR=platform # Gives back what it does not use.
    step compile-0.5b-phases $small --phases only --compile-only &
    step compile-0.5b $small --compile-only &
    step compile-1.5b-phases $large --phases only --compile-only &
    if [ -n "$trl" ]; then
        "$python" benchmarks/peers/workload.py "$out/workload" --model 0.5b $size &&
            compare 0 >"$out/compile-compare.txt" 2>&1
    fi
    wait
)
step 0.5b $small --phases --steps 3 --json
step 1.5b $large --phases only --steps 3 --json
tail -n 16 "$out/0.5b.txt" "$out/1.5b.txt"
if [ -n "$trl" ]; then
    # All of them stay in the card's memory, hence the small micro-batches.
    # Autocast over float32 weights, as TRL has it; and products in TF32, which need no
    # casts: decoding, which waits for one small operation after the other, has fewer.
    compare 2 --python "trl=$trl" --json "$out/compare.json" \
        --contestant 'trl=trl:{"dtype": "bfloat16", "cache": null, "micro_batch": 8}' \
        --contestant 'trl-tf32=trl:{"cache": null, "micro_batch": 4, "config": {"tf32": true}}' \
        2>&1 | tee "$out/compare.txt"
fi
