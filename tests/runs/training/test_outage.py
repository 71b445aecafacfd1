"""A judge whose server is down for ten seconds in the middle of a run."""

import json
import threading
import time

import jax.random as jr
import numpy as np
import optax
import pytest

from grpojax import fit, init, RolloutConfig, TrainStep
from grpojax.reward import HostReward, Judge, WeightedSum

from ...helpers import count_env, transformer
from ...reward.servers import Server


STEPS, ROWS, DOWN = 12, 16, 10.0


@pytest.mark.slow
@pytest.mark.parametrize("retries", [2, 5])
def test_a_run_survives_ten_seconds_without_its_judge(retries, tmp_path, capsys):
    """With few retries rows fail and are counted; by default the run waits for it."""
    asked, ended, times = threading.Event(), threading.Event(), {}

    def answer(text, number):
        if number == 3 * ROWS:
            asked.set()
        return f"Score: {len(text) % 7}"

    server = Server(answer)

    def serve():
        with server.running():
            asked.wait(300)
        times["down"] = time.monotonic()
        time.sleep(DOWN)
        with server.running():
            times["up"] = time.monotonic()
            ended.wait(300)

    judge = Judge(server.url, "small", "{{ completion }}", retries=retries)
    thread = threading.Thread(target=serve)
    thread.start()
    optimizer = optax.sgd(0.01)
    state = init(transformer(), optimizer=optimizer, key=jr.key(0))
    step = TrainStep(
        count_env(),
        optimizer,
        rollout=RolloutConfig(4, 4),
        reward=WeightedSum({"judge": 1.0}, HostReward(judge, repr, name="judge")),
    )
    try:
        fit(state, step, steps=STEPS, out=tmp_path / "run")
    finally:
        asked.set()
        ended.set()
        thread.join()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    errors = np.array([record["rewards/judge/errors"] for record in records])
    failed = np.flatnonzero(errors)
    with capsys.disabled():
        seconds = [round(record["step_time"], 1) for record in records]
        print(f"\nretries {retries}: errors {errors.astype(int).tolist()}, {seconds} s")
    assert times["up"] - times["down"] >= DOWN and len(records) == STEPS
    # Before, and once it is back, every row is judged; in between a row or none.
    assert (retries == 5) == (errors.sum() == 0)
    assert errors[:2].sum() == errors[-3:].sum() == 0 and failed.size < 5
    assert (np.diff(failed) == 1).all() and errors.max() <= ROWS
    rewards = np.array([record["rewards/judge/mean"] for record in records])
    assert (rewards[errors == 0] >= 0).all()
    assert len(server.requests) >= ROWS * STEPS - errors.sum()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "finished"
