"""Ahead-of-time compilation of the train step for devices that need not be present.

    python benchmarks/aot.py --topology v5e:2x2 --model qwen2.5-0.5b --mesh 1,2,2
    python benchmarks/aot.py --topology v5e:4x4 --model qwen2.5-7b --mesh 1,4,4 \
        --weights bfloat16 --chunk 1024 --json

    python benchmarks/aot.py --gpus 8 --model qwen2.5-7b --mesh 1,2,4 \
        --weights bfloat16 --chunk 1024

The compiler is the one for TPUs (`pip install 'grpojax[tpu]'`) or for GPUs (`cuda`);
nothing is allocated or computed. It reports the memory of a device; the text of its
program shows the collectives, and the loops that contain them.
"""

import argparse
import collections
import json
import math
import os
import re
import time
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import hlo
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import plan
from chips import Chip, CHIPS
from jax.experimental import mesh_utils, topologies
from presets import PRESETS, RandomPrompts

import grpojax
from grpojax import models, sharding
from grpojax.rollout.cache import block_columns


_H100 = str(Path(__file__).with_name("h100.txtpb"))

PHASES = ("rollout", "reward", "advantage", "update")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--topology", help="TPUs: v5e:2x2, v6e:2x4, v5p:2x2x2 ...")
    where.add_argument("--gpus", type=int, help="so many GPUs of one host")
    add("--target", default=_H100, help="with --gpus: which, in XLA's words")
    add("--model", default="qwen2.5-0.5b", choices=PRESETS)
    add("--mesh", required=True, help="sizes of data,fsdp,tensor[,expert]")
    add("--prompts", type=int, default=16)
    add("--group", type=int, default=8)
    add("--prefix", type=int, default=512, help="tokens of each prompt")
    add("--time", type=int, default=1024, help="the horizon, in tokens")
    add("--slots", type=int, default=None, help="rows decoded at a time; all of them")
    add("--cache-tokens", type=int, default=None, help="of all slots; their horizons")
    add("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    add("--weights", default="float32", choices=["float32", "bfloat16"])
    add("--cache-dtype", default=None, choices=["bfloat16", "int8", "float32"])
    add("--sampler-weights", default=None, choices=["int8"])
    add("--remat", default="layers", help="what the backward pass computes again")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--tokens", type=int, default=None, help="of a microbatch")
    size.add_argument("--microbatches", type=int, default=None)
    add(
        "--chunk", type=int, default=None, help="positions whose logits exist at a time"
    )
    add("--text", default=None, help="write the compiled program's text here")
    add("--json", action="store_true", help="print a line of JSON last")
    return parser.parse_args()


def devices_of(options: argparse.Namespace) -> list[jax.Device]:
    """Devices to compile for, of which this machine need not have any."""
    if options.gpus is not None:
        target = Path(options.target).read_text(encoding="utf-8")
        return _described("cuda", topology=f"1x1x{options.gpus}", target_config=target)
    # All that libtpu asks for where there is no TPU; any accelerator type will do.
    absent = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
    }
    for name, value in absent.items():
        os.environ.setdefault(name, value)
    return _described("tpu", topology_name=options.topology)


def _described(platform: str, **description: str) -> list[jax.Device]:
    try:
        found = topologies.get_topology_desc(platform=platform, **description)
    except (RuntimeError, NotImplementedError) as error:
        extra = {"tpu": "tpu", "cuda": "cuda"}[platform]
        raise SystemExit(
            f"A compiler for {platform} is a library (pip install 'grpojax[{extra}]') "
            f"and needs no such device. It answered: {error}"
        ) from error
    return list(found.devices)


def mesh_of(options: argparse.Namespace) -> jax.sharding.Mesh:
    given = list(map(int, options.mesh.split(",")))
    given += [1] * (len(sharding.NAMES) - len(given))
    sizes = dict(zip(sharding.NAMES, given, strict=True))
    devices = devices_of(options)
    laid = mesh_utils.create_device_mesh(
        tuple(sizes.values()), devices, allow_split_physical_axes=True
    )
    return sharding.make_mesh(**sizes, devices=laid.reshape(-1).tolist())


def compile_step(options: argparse.Namespace, mesh: jax.sharding.Mesh):
    """The step as it runs: the memory of its state is used again."""
    config = PRESETS[options.model]
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-6))

    def make():
        policy = models.Transformer(
            config,
            dtype=options.weights,
            compute_dtype=options.dtype,
            cache_dtype=options.cache_dtype,
            remat=options.remat,
            key=jr.key(0),
        )
        state = grpojax.init(policy, optimizer=optimizer, key=jr.key(1))
        return state, RandomPrompts(config.vocab_size, options.prefix, options.time)

    is_shape = lambda x: isinstance(x, jax.ShapeDtypeStruct)
    shapes, static = eqx.partition(eqx.filter_eval_shape(make), is_shape)
    at = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
    state, env = jax.tree.map(at, shapes, sharding.shardings(shapes, mesh))

    def step(state, env):
        state, env = eqx.combine((state, env), static)
        state, metrics = grpojax.train_step(
            state,
            env,
            optimizer,
            rollout=grpojax.RolloutConfig(
                options.prompts,
                options.group,
                slots=options.slots,
                cache_tokens=options.cache_tokens,
                behavior=models.quantize if options.sampler_weights else None,
            ),
            update=update_of(options),
        )
        return eqx.filter(state, eqx.is_array), metrics

    with jax.set_mesh(mesh):
        options.block = block_columns()
        return jax.jit(step, donate_argnums=0).lower(state, env).compile()


def update_of(options: argparse.Namespace) -> grpojax.UpdateConfig:
    return grpojax.UpdateConfig(
        tokens=options.tokens, microbatches=options.microbatches, chunk=options.chunk
    )


class Microbatches(NamedTuple):
    """How many a shard has if every row has its full length, and whether rows split."""

    count: int
    split_rows: bool


def microbatches_of(
    options: argparse.Namespace, mesh: jax.sharding.Mesh
) -> Microbatches:
    batch = [mesh.shape[name] for name in sharding.BATCH]
    padded = options.prompts * options.group * options.time // math.prod(batch)
    with jax.set_mesh(mesh):
        tokens = update_of(options).microbatch_tokens(padded)
    return Microbatches(-(-padded // tokens), options.time > tokens)


def phase_of(scope: str) -> str:
    found = re.search(rf"\b({'|'.join(PHASES)})\b", scope)
    return found[0] if found else ""


def labels_of(loops: tuple[hlo.Loop, ...], options: argparse.Namespace) -> list[str]:
    """What each loop is over, from the outermost to the innermost."""
    scope = loops[0].scope if loops else ""
    names: list[str] = []
    if "prefill" in scope.split("/"):
        names = ["prompt block"]
    elif phase_of(scope) == "rollout":
        # Elsewhere than on a GPU, a long horizon is decoded block by block.
        recent = 2 * options.block
        is_blocked = options.time > recent and (
            options.gpus is None or options.cache_tokens is not None
        )
        names = ["block", "token"] if is_blocked else ["token"]
        # Every row takes a page for each block.
        names = ["block", "row"] if "pages" in scope.split("/") else names
    elif phase_of(scope) == "update":
        names = ["microbatch"]
    known, labels = iter(names), []
    for loop in loops:
        if loop.trips is None:
            labels.append(next(known, "loop"))
        elif loop.trips == PRESETS[options.model].num_layers:
            labels.append("layer")
        else:
            labels.append(f"{loop.trips} times")
    return labels


def times_of(
    loops: tuple[hlo.Loop, ...],
    options: argparse.Namespace,
    microbatches: Microbatches,
) -> int:
    """How often what stands in these loops runs, if every row has its full length.

    Of the loops whose number only the data know these are tokens, as many for every
    slot as its rows have, blocks of prompts, and the microbatches of an update, either
    all with split rows or none. Those inside of them, such as blocks of columns, are
    counted once.
    """
    rows = options.prompts * options.group
    tokens = options.time * math.ceil(rows / (options.slots or rows))
    labels = labels_of(loops, options)
    is_split = any("split_rows" in loop.scope.split("/") for loop in loops)
    counts = {
        "prompt block": -(-options.prefix // options.block),
        "block": -(-tokens // options.block),
        "row": options.slots or rows,
        "token": options.block if "block" in labels else tokens,
        "microbatch": microbatches.count * (is_split == microbatches.split_rows),
    }
    known = math.prod(loop.trips for loop in loops if loop.trips is not None)
    return known * math.prod(counts.get(label, 1) for label in labels)


def over(devices: tuple[int, ...], mesh: jax.sharding.Mesh) -> str:
    """The axes of the mesh that a group of devices spans."""
    sizes = tuple(mesh.shape.values())
    places = np.stack(np.unravel_index(np.array(devices, int), sizes))
    spans = (places != places[:, :1]).any(axis=1)
    return " x ".join(np.array(mesh.axis_names)[spans])


def memory_of(compiled) -> dict[str, int]:
    """Bytes of one device; results that lie where arguments lay count once."""
    stats = compiled.memory_analysis()
    return {
        "arguments": stats.argument_size_in_bytes,
        "results": stats.output_size_in_bytes - stats.alias_size_in_bytes,
        "temporary": stats.temp_size_in_bytes,
        "program": stats.generated_code_size_in_bytes,
    }


def exchanges(text: str, options: argparse.Namespace, mesh) -> list[dict]:
    """What devices say to each other: one row for each kind, place and result."""
    rows, parts = collections.Counter(), microbatches_of(options, mesh)
    for x in hlo.collectives(text):
        place = [phase_of(x.scope) or phase_of(x.loops[0].scope if x.loops else "")]
        place += labels_of(x.loops, options)
        row = x.kind, over(x.devices, mesh), " > ".join(place), plain(x.result)
        rows[(*row, x.bytes, times_of(x.loops, options, parts))] += 1
    names = "kind", "over", "place", "result", "bytes", "times"
    return [
        {**dict(zip(names, row, strict=True)), "count": count}
        for row, count in sorted(rows.items(), key=lambda x: x[0][2])
    ]


def plain(type: str) -> str:
    """A type without its layout."""
    return re.sub(r"\{[^}]*\}|/\*[^*]*\*/", "", type)


def cycles_of(text: str, options: argparse.Namespace, mesh) -> dict[str, float]:
    """The TPU compiler's estimate of its own instructions, by phase: millions."""
    found, parts = collections.Counter(), microbatches_of(options, mesh)
    for x in hlo.instructions(text):
        cycles = re.search(r'"estimated_cycles":"(\d+)"', x.attributes)
        if cycles is None or x.fused:
            continue
        scopes = [x.scope, *(loop.scope for loop in x.loops)]
        phase = next(filter(None, map(phase_of, scopes)), "")
        decoding = "token" in labels_of(x.loops, options)
        name = "decoding" if decoding else phase
        found[name] += int(cycles[1]) * times_of(x.loops, options, parts) / 1e6
    return dict(found)


def planned(options: argparse.Namespace, mesh, chip: Chip) -> plan.Estimate:
    """The same step on paper."""
    data, fsdp, *layers = mesh.shape.values()
    count = microbatches_of(options, mesh).count
    shape = plan.Mesh(data * fsdp, math.prod(layers), count)
    job = plan.Job(
        options.prompts,
        options.group,
        options.prefix,
        options.time,
        jnp.dtype(options.weights).itemsize,
    )
    return plan.estimate(PRESETS[options.model], chip, shape, job)


def main():
    options = parse()
    mesh = mesh_of(options)
    start = time.perf_counter()
    compiled = compile_step(options, mesh)
    seconds = time.perf_counter() - start
    text = compiled.as_text()
    if options.text is not None:
        Path(options.text).write_text(text, encoding="utf-8")
    memory, cost = memory_of(compiled), compiled.cost_analysis() or {}
    said = exchanges(text, options, mesh)
    cycles = cycles_of(text, options, mesh)
    where = f"{options.gpus} GPUs" if options.gpus else options.topology
    chip = CHIPS["h100" if options.gpus else options.topology.split(":")[0]]
    total = sum(memory.values())
    print(f"{options.model} on {where}, mesh {dict(mesh.shape)}")
    print(f"  {options.prompts} prompts x {options.group} samples, ", end="")
    print(f"prefix {options.prefix}, {options.time} tokens, ", end="")
    print(f"weights {options.weights}, compiled in {seconds:.0f} s\n")
    print("| bytes per device | GB |\n|---|---|")
    for name, size in {**memory, "together": total}.items():
        print(f"| {name} | {size / 1e9:.2f} |")
    print(f"| the chip's | {chip.memory / 1e9:.0f} |")
    if PRESETS[options.model].switches.experts is None:  # No plan has any.
        floors = planned(options, mesh, chip)
        decode = sum(s for n, s in floors.seconds.items() if n.startswith("decoding"))
        print(f"| as planned | {floors.memory / 1e9:.2f} |\n")
        print(f"floors: decoding {decode:.2f} s, ", end="")
        print(f"the rest {floors.step - decode:.2f} s")
    if cycles:
        print("\n| estimated, full lengths | million cycles | s |\n|---|---|---|")
    for name, count in cycles.items():
        print(f"| {name} | {count:,.0f} | {count * 1e6 / chip.clock:.2f} |")
    print("\nOf the program's text, each loop's body counted once: ", end="")
    print(
        f"{cost.get('flops', 0):.3g} FLOP, {cost.get('bytes accessed', 0):.3g} bytes,"
    )
    print(f"optimal_seconds {cost.get('optimal_seconds', 0):.3g}")
    print("\n| collective | over | place | result | MB | instructions | times a step |")
    print("|---|---|---|---|---|---|---|")
    for x in said:
        print(
            f"| {x['kind']} | {x['over']} | {x['place']} | {x['result'][:60]} | ",
            end="",
        )
        print(f"{x['bytes'] / 1e6:,.3f} | {x['count']} | {x['times']:,} |")
    if options.json:
        result = {**vars(options), "compile_s": seconds, "memory": memory}
        print(json.dumps({**result, "cycles": cycles, "collectives": said}))


if __name__ == "__main__":
    main()
