"""A step of a 0.5B model through the TPU compiler, which needs no TPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


pytest.importorskip("libtpu", reason="The TPU compiler: pip install 'grpojax[tpu]'.")
pytestmark = pytest.mark.slow
AOT = Path(__file__).parents[1] / "benchmarks" / "aot.py"


@pytest.fixture(scope="module")
def compiled():
    """Qwen2.5-0.5B on four chips of 16 GB, horizon 2,048, float32 weights."""
    flags = "--topology v5e:2x2 --model qwen2.5-0.5b --mesh 1,2,2 --time 2048 --json"
    command = [sys.executable, str(AOT), *flags.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_memory_follows_the_microbatch_and_not_the_horizon(compiled):
    memory = compiled["memory"]
    assert sum(memory.values()) < 9e9
    # Weights and two moments in float32, in four parts.
    assert memory["arguments"] < 2.2e9


def test_a_microbatch_moves_the_head_once(compiled):
    """Both uses of the tied weight, and no block of logits, gather or reduce it."""
    head = 151_936 * 896 * 2 // 2  # In bfloat16, of one of two parts over `tensor`.
    moved = [
        x
        for x in compiled["collectives"]
        if x["bytes"] >= head and x["place"].startswith("update > microbatch")
    ]
    assert moved
    for x in moved:
        assert x["place"] == "update > microbatch", x
    assert sum(x["count"] for x in moved) <= 4


def test_tokens_are_decoded_without_weights(compiled):
    layer = 896 * 896 * 2 // 4
    for x in compiled["collectives"]:
        if x["place"].startswith("rollout > block > token") and x["bytes"] >= layer:
            assert x["kind"] != "all-gather", x
