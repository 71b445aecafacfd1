"""Time of a train step and its phases, compared with the machine's peak rates.

    python benchmarks/step_throughput.py --model tiny --phases
    python benchmarks/step_throughput.py --model qwen2.5-0.5b --dtype bfloat16 \
        --prefix 256 --time 512 --lengths exponential:128 --slots 64 --json
    python benchmarks/step_throughput.py --mesh 2,1,1

Weights are random (or those of a directory), prompts are random tokens, and the length
of each row does not depend on its tokens: every run does the same work.
"""

import argparse
import functools as ft
import json
import math
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from presets import iterations_of, lengths_of, PRESETS, RandomPrompts
from roofline import ceilings, count

import grpojax
from grpojax import models, rollout, sharding, update
from grpojax.runs.distributed import mesh as meshes
from grpojax.runs.training.devices import allocator


def sizes_of(text: str) -> tuple[int, ...]:
    """The sizes of a mesh, `2,1,1`."""
    sizes = tuple(int(size) for size in text.split(","))
    if len(sizes) not in (3, 4) or min(sizes) < 1:
        raise argparse.ArgumentTypeError(
            f"positive sizes, of data,fsdp,tensor[,expert]. Received {text!r}"
        )
    return (*sizes, 1)[: len(sharding.NAMES)]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", default="tiny", help=f"a directory, or {', '.join(PRESETS)}")
    add("--prompts", type=int, default=8)
    add("--group", type=int, default=8)
    add("--prefix", type=int, default=64, help="tokens of each prompt")
    add("--widest", type=int, default=None, help="the longest prompt of the data set")
    add("--time", type=int, default=128, help="the horizon, in tokens")
    add("--lengths", default="full", help="full, exponential:MEAN, or a JSON file")
    add("--slots", type=int, default=None, help="rows decoded at a time; all of them")
    add("--cache-tokens", type=int, default=None, help="of all slots; their horizons")
    add("--dtype", default="float32", choices=["float32", "bfloat16"])
    add("--weights", default="float32", choices=["float32", "bfloat16"])
    add("--remat", default="elementwise", help="see `models.Transformer`")
    add(
        "--cache",
        default=None,
        choices=["float32", "bfloat16", "int8"],
        help="of the sampler",
    )
    add(
        "--sampler-weights",
        default=None,
        choices=["int8"],
        help="of the layers' matrices, quantized at the start of each rollout",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--tokens", type=int, default=None, help="of a microbatch")
    size.add_argument("--microbatches", type=int, default=None)
    add("--mesh", type=sizes_of, default=(1, 1, 1), help="sizes of data,fsdp,tensor")
    add("--steps", type=int, default=5)
    add(
        "--phases",
        nargs="?",
        const="too",
        choices=["too", "only"],
        help="time the four phases apart, too; `only` leaves out the step as a whole",
    )
    add(
        "--compile-only",
        action="store_true",
        help="stop before anything is timed: for JAX_COMPILATION_CACHE_DIR",
    )
    add("--json", action="store_true", help="print a line of JSON last")
    add("--trace", type=Path, default=None, help="write a profile of one step here")
    options = parser.parse_args()
    apart = options.phases == "only" or options.compile_only
    if apart and options.trace is not None:
        parser.error(
            "--trace is of the step as a whole, which --phases only leaves out and "
            "--compile-only does not take"
        )
    return options


def mesh_of(sizes: tuple[int, ...]) -> jax.sharding.Mesh | None:
    """The first devices there are; a CPU counts as as many as are asked for."""
    count = math.prod(sizes)
    # Has a say only before devices are first looked at, and in CPUs alone.
    jax.config.update("jax_num_cpu_devices", count)
    if count == 1:
        return None
    devices = jax.devices()[:count]
    named = dict(zip(sharding.NAMES, sizes, strict=True))
    return sharding.make_mesh(**named, devices=devices)


def load(options) -> models.Transformer:
    settings = dict(
        dtype=options.weights,
        compute_dtype=options.dtype,
        cache_dtype=options.cache,
        remat=options.remat,
    )
    if options.model in PRESETS:
        return models.Transformer(PRESETS[options.model], **settings, key=jr.key(0))
    return models.load(options.model, **settings)


def repeat(call, steps: int) -> list[float]:
    """Seconds of each call after the first, which may compile."""
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def compile_step(
    step: grpojax.TrainStep, state: grpojax.TrainState
) -> tuple[Callable, float]:
    """The step as one program, which reuses its state's memory; seconds it took."""
    start = time.perf_counter()
    program = eqx.filter_jit(lambda step, state: step(state), donate="all-except-first")
    compiled = program.lower(step, state).compile()
    allocator.give_back()
    return ft.partial(compiled, step), time.perf_counter() - start


def time_phases(options, state, step: grpojax.TrainStep) -> dict[str, list[float]]:
    """The same step as four programs, each called with the results of the others."""
    env, sizes, algorithm = step.env, step.rollout, step.algorithm
    sample = eqx.filter_jit(lambda s: rollout.generate(s.policy, env, sizes, key=s.key))
    reward, advantage = map(eqx.filter_jit, (step.reward, algorithm.advantage))

    @eqx.filter_jit
    def improve(state, trajectory, advantages):
        return update.improve(
            state.policy,
            state.opt_state,
            trajectory,
            advantages,
            objective=algorithm.objective,
            optimizer=step.optimizer,
            config=step.update,
        )

    trajectory = sample(state)
    rewards = reward(trajectory)
    advantages = advantage(rewards)
    calls = {
        "rollout": lambda: sample(state),
        "reward": lambda: reward(trajectory),
        "advantage": lambda: advantage(rewards),
        "update": lambda: improve(state, trajectory, advantages),
    }
    if options.compile_only:
        jax.block_until_ready(calls["update"]())
        return {}
    return {name: repeat(call, options.steps) for name, call in calls.items()}


def peak_bytes() -> int:
    """Of the first device where it keeps count, else of the process."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return statistics.get("peak_bytes_in_use", resident)


def main():
    options = parse()
    mesh = mesh_of(options.mesh)
    with meshes.use(mesh):
        measure(options, mesh)


def measure(options: argparse.Namespace, mesh: jax.sharding.Mesh | None):
    shape = options.prompts, options.group
    lengths = lengths_of(options.lengths, *shape, options.time)
    slots = options.slots
    refills = slots is not None and slots < lengths.size
    # Every part of the batch decodes its own rows, and reads the weights for them.
    parts = sharding.spmd.shards()
    sharding.check_prompts("--prompts", options.prompts)
    each = slots if slots is None else slots // parts
    reads = [iterations_of(rows, each) for rows in np.split(lengths, parts)]
    iterations = max(reads)
    policy = load(options)
    env = RandomPrompts(policy.vocab_size, options.prefix, options.time, options.widest)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-6))
    state = grpojax.init(policy, optimizer=optimizer, key=jr.key(1))
    state, env = meshes.place((state, env), mesh)
    limits = None if options.lengths == "full" else jnp.asarray(lengths)
    quantized = options.sampler_weights == "int8"
    behavior = models.quantize if quantized else None
    tokens = options.cache_tokens
    sizes = dict(slots=slots, cache_tokens=tokens, limits=limits, behavior=behavior)
    step = grpojax.TrainStep(
        env,
        optimizer,
        rollout=grpojax.RolloutConfig(*shape, **sizes),
        update=grpojax.UpdateConfig(
            tokens=options.tokens, microbatches=options.microbatches
        ),
    )
    apart = time_phases(options, state, step) if options.phases else {}
    seconds, compile_seconds = [], None
    if options.phases != "only":
        compiled, compile_seconds = compile_step(step, state)

        def call():
            nonlocal state
            state, metrics = compiled(state)
            return metrics

        if not options.compile_only:
            seconds = repeat(call, options.steps)
        if options.trace is not None:
            with jax.profiler.trace(str(options.trace)):
                jax.block_until_ready(call())
    if options.compile_only:
        return
    tokens = int(lengths.sum())
    work = count(
        policy.config,
        lengths,
        prefix=options.prefix,
        reads=sum(reads),
        refills=refills,
        itemsize=jnp.dtype(options.dtype).itemsize,
        quantized=quantized,
    )
    devices = jax.devices()[: math.prod(options.mesh)]
    flops, bandwidth = ceilings(options.dtype, devices)
    floors = {
        "rollout": work.prefill_flops / flops
        + max(work.decode_flops / flops, work.decode_bytes / bandwidth),
        "update": work.update_flops / flops,
    }
    median = {name: statistics.median(x) for name, x in apart.items()}
    # Phases that were timed alone stand for the step.
    middle = statistics.median(seconds) if seconds else sum(median.values())
    share = {name: floors[name] / median[name] for name in floors if name in median}
    rate = lambda name: tokens / median[name] if name in median else None
    result = dict(
        model=options.model,
        device=jax.devices()[0].device_kind,
        prompts=options.prompts,
        group=options.group,
        prefix=options.prefix,
        time=options.time,
        lengths=options.lengths,
        slots=slots,
        dtype=options.dtype,
        mesh=options.mesh,
        compile_s=compile_seconds,
        step_s=middle,
        rollout_s=median.get("rollout"),
        update_s=median.get("update"),
        generated_tokens=tokens,
        rollout_tokens_per_s=rate("rollout"),
        update_tokens_per_s=rate("update"),
        mfu=work.flops / middle / flops,
        roofline_share_rollout=share.get("rollout"),
        roofline_share_update=share.get("update"),
        peak_memory_bytes=peak_bytes(),
        iterations=iterations,
        weight_bytes_per_iteration=work.weight_bytes,
    )
    times = f"{len(devices)} x " if len(devices) > 1 else ""
    print(f"{options.model} on {times}{result['device']}, {options.dtype}")
    print(f"  {shape[0]} prompts x {shape[1]} samples, prefix {options.prefix}")
    print(f"  {tokens:,} tokens in {iterations} decode iterations")
    ceiling = f"{flops / 1e9:,.0f} GFLOP/s in products, {bandwidth / 1e9:,.1f} GB/s"
    print(f"  ceilings measured in this run: {ceiling} in copies")
    print("\n| | median s | min | max | floor s | share |\n|---|---|---|---|---|---|")
    timed = {"step": seconds, **apart} if seconds else apart
    for name, times in timed.items():
        floor = sum(floors.values()) if name == "step" else floors.get(name)
        part = (
            "| |"
            if floor is None
            else (f"| {floor:.3f} | {floor / statistics.median(times):.0%} |")
        )
        print(
            f"| {name} | {statistics.median(times):.3f} | {min(times):.3f} | "
            f"{max(times):.3f} {part}"
        )
    compiling = f"compiled in {compile_seconds:.1f} s; " if compile_seconds else ""
    print(f"\n{compiling}MFU {result['mfu']:.1%}; ", end="")
    print(f"{tokens / middle:,.0f} tokens/s; {work.flops / 1e9:,.0f} GFLOP a step;")
    print(f"decoding moves {work.decode_bytes / 1e9:,.2f} GB, ", end="")
    print(f"{work.weight_bytes / 1e6:,.1f} MB of weights per iteration; ", end="")
    print(f"peak memory {result['peak_memory_bytes'] / 2**20:,.0f} MiB")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
