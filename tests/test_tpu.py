"""A step of a 0.5B model through the TPU compiler, which needs no TPU."""

import functools as ft
import json
import subprocess
import sys
from pathlib import Path

import pytest


pytest.importorskip("libtpu", reason="The TPU compiler: pip install 'grpojax[tpu]'.")
pytestmark = pytest.mark.slow
AOT = Path(__file__).parents[1] / "benchmarks" / "aot.py"


@ft.cache
def compiled(horizon: int) -> dict:
    """Qwen2.5-0.5B on four chips, 128 rows in 16 slots, float32 weights."""
    flags = "--topology v5e:2x2 --model qwen2.5-0.5b --mesh 1,2,2 --slots 16 --json"
    command = [sys.executable, str(AOT), *flags.split(), "--time", str(horizon)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_memory_follows_the_microbatch_and_not_the_horizon():
    short, long = (compiled(horizon)["memory"] for horizon in (1024, 4096))
    assert long["temporary"] <= 1.01 * short["temporary"] < 5.7e9
    # Weights and two moments in float32, in four parts.
    assert short["arguments"] == long["arguments"] < 1.6e9


@pytest.mark.parametrize("horizon", [1024, 4096])
def test_a_microbatch_moves_the_head_once(horizon):
    """It is the embedding, too: one gather, and one reduction, serve both."""
    head = 151_936 * 896 * 4 // 2  # In float32, of one of two parts over `tensor`.
    moved = [
        x
        for x in compiled(horizon)["collectives"]
        if x["bytes"] >= head // 2 and x["place"].startswith("update > microbatch")
    ]
    assert {x["place"] for x in moved} == {"update > microbatch"}
    assert sum(x["bytes"] * x["count"] for x in moved) <= 2.01 * head


@pytest.mark.parametrize("horizon", [1024, 4096])
def test_tokens_are_decoded_without_gathering_weights(horizon):
    layer = 896 * 896 * 2 // 4
    decoding = [
        x
        for x in compiled(horizon)["collectives"]
        if x["place"].startswith("rollout > block > token")
    ]
    assert decoding
    for x in decoding:
        assert x["kind"] != "all-gather" or x["bytes"] < layer, x
