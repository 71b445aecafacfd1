"""One GRPO step of grpojax, for `compare.py`."""

import math
import os
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from protocol import arguments, Steps, Workload

import grpojax
from grpojax import models, sharding
from grpojax.env import AbstractDatasetEnvironment, TimeStep
from grpojax.runs.distributed import mesh as meshes
from grpojax.runs.training.devices import allocator
from grpojax.types import Prompt


SETTINGS = {
    # Of the matrix products; the weights are float32.
    "dtype": "float32",
    # Of the sampler's keys and values; that of the products when null. For products in
    # 16 bits "float32" is faster on a CPU, which widens them in any case.
    "cache": None,
    # What the backward pass computes again.
    "remat": "elementwise",
    # Fields of `RolloutConfig`, such as `slots`.
    "rollout": {},
    # Fields of `UpdateConfig`, such as `tokens`.
    "update": {},
    # Sizes of data, fsdp and tensor; a CPU counts as as many devices as that takes.
    "mesh": [1, 1, 1],
    # Two programs instead of one, so that rollout and update are timed apart.
    "phases": False,
    # Further XLA_FLAGS, such as those of the least memory in docs/performance.md.
    "xla_flags": "",
}


class Questions(AbstractDatasetEnvironment):
    """The workload's prompts; the reward is the share of even tokens."""

    prompts: jax.Array
    end_tokens: jax.Array
    vocab_size: int = eqx.field(static=True)
    max_prompt_length: int = eqx.field(static=True)
    max_completion_length: int = eqx.field(static=True)
    size: int = eqx.field(static=True)
    max_turns: int = eqx.field(static=True, default=1)

    def problem(self, index):
        prompt = self.prompts[index]
        return index, Prompt(prompt, jnp.array(prompt.shape[0], jnp.int32))

    def step(self, state, turn):
        sampled = jnp.arange(self.max_completion_length) < turn.length
        even = jnp.sum((turn.tokens % 2 == 0) & sampled, dtype=jnp.float32)
        no_reply = jnp.zeros((0,), jnp.int32), jnp.zeros((), jnp.int32)
        rewards = {"even": even / jnp.maximum(turn.length, 1)}
        return state, TimeStep(*no_reply, rewards, jnp.array(True))


def questions(workload: Workload) -> Questions:
    prompts = np.array(workload.prompts, np.int32)
    return Questions(
        jnp.asarray(prompts),
        # Outside the vocabulary: no row ends before its limit.
        jnp.array([workload.vocab_size]),
        vocab_size=workload.vocab_size,
        max_prompt_length=prompts.shape[1],
        max_completion_length=workload.time,
        size=len(prompts),
    )


def one_program(step: grpojax.TrainStep, state: grpojax.TrainState):
    """The step, compiled; it reuses its state's memory."""
    program = eqx.filter_jit(lambda step, state: step(state), donate="all-except-first")
    compiled = program.lower(step, state).compile()
    allocator.give_back()
    return lambda state: (*compiled(step, state), None)


def two_programs(step: grpojax.TrainStep):
    """The step's halves, compiled apart, and the seconds of the first."""
    collect = eqx.filter_jit(lambda step, state: step.collect(state))

    @eqx.filter_jit(donate="all")
    def learn(state, experience):
        return step.learn(state, experience)

    def call(state):
        start = time.perf_counter()
        experience = jax.block_until_ready(collect(step, state))
        seconds = time.perf_counter() - start
        return *learn(state, experience), seconds

    return call


def main():
    steps = Steps()
    workload, settings = arguments(SETTINGS)
    flags = os.environ.get("XLA_FLAGS", ""), settings["xla_flags"]
    # Read when a device is looked for.
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()
    sizes = dict(zip(sharding.NAMES, settings["mesh"], strict=True))
    count = math.prod(sizes.values())
    jax.config.update("jax_num_cpu_devices", count)  # Of no account for a GPU.
    devices = jax.devices()[:count]
    mesh = sharding.make_mesh(**sizes, devices=devices) if count > 1 else None
    with meshes.use(mesh):
        work(steps, workload, settings, mesh)


def work(steps: Steps, workload: Workload, settings: dict, mesh):
    policy = models.load(
        workload.model,
        compute_dtype=settings["dtype"],
        cache_dtype=settings["cache"],
        remat=settings["remat"],
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(workload.learning_rate, weight_decay=0.0),
    )
    state = grpojax.init(policy, optimizer=optimizer, key=jax.random.key(workload.seed))
    state, env = meshes.place((state, questions(workload)), mesh)
    prompts, group = len(workload.prompts), workload.group
    limits = None
    if not workload.full:
        limits = jnp.array(workload.lengths, jnp.int32).reshape(prompts, group)
    step = grpojax.TrainStep(
        env,
        optimizer,
        rollout=grpojax.RolloutConfig(
            prompts, group, limits=limits, **settings["rollout"]
        ),
        update=grpojax.UpdateConfig(**settings["update"]),
    )
    call = two_programs(step) if settings["phases"] else one_program(step, state)
    steps.ready(jax=jax.__version__, device=jax.devices()[0].device_kind)
    while steps.wait():
        state, metrics, seconds = call(state)
        metrics = jax.device_get(metrics)  # Waits for the step.
        memory = jax.devices()[0].memory_stats() or {}
        steps.answer(
            tokens=int(metrics["num_tokens"]),
            rollout=seconds,
            device_bytes=memory.get("peak_bytes_in_use"),
        )


if __name__ == "__main__":
    main()
