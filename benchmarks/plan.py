"""Lower bounds of a step on many chips, calculated: seconds, bytes, bottleneck.

    python benchmarks/plan.py
    python benchmarks/plan.py --models qwen2.5-7b --chips v5e --count 16 --prompts 16

They follow from the published figures of `chips.py`: what an ideal program would take.
For each number of chips the fastest mesh that fits is shown. `aot.py` compiles the same
step with the real compiler and prints both.
"""

import argparse
import dataclasses

import numpy as np
from chips import Chip, CHIPS
from presets import PRESETS
from roofline import count

from grpojax.models import TransformerConfig


@dataclasses.dataclass(frozen=True)
class Job:
    """A step: how many prompts, samples of each, tokens of each; bytes of a weight; for
    how many positions logits exist at a time."""

    prompts: int
    group: int
    prefix: int
    time: int
    weight: int
    chunk: int = 1024


@dataclasses.dataclass(frozen=True)
class Mesh:
    fsdp: int
    tensor: int
    microbatches: int

    @property
    def count(self) -> int:
        return self.fsdp * self.tensor


LEVERS = {
    "decoding reads weights": "more rows per chip (prompts, group), or more tensor",
    "decoding reads caches": "more chips, or a smaller cache dtype",
    "decoding waits for links": "less tensor, or more rows per chip",
    "products": "more chips for the same number of prompts",
    "gathering weights": "fewer microbatches, or more tensor",
}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds by what they are spent on, and bytes of a device by kind."""

    seconds: dict[str, float]
    bytes: dict[str, float]

    @property
    def step(self) -> float:
        return sum(self.seconds.values())

    @property
    def memory(self) -> float:
        """The state is there all the time, the rest is either decoding or updating."""
        parts = self.bytes
        return parts["state"] + max(parts["decoding"], parts["updating"])

    @property
    def bottleneck(self) -> str:
        return max(self.seconds, key=lambda name: self.seconds[name])


def parameters(config: TransformerConfig) -> tuple[int, int]:
    """Of the layers' matrices, and of all matrices."""
    c = config
    heads, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    layer = 2 * c.hidden_size * (heads + kv) + 3 * c.hidden_size * c.intermediate_size
    matrices = c.num_layers * layer
    if c.switches.experts is not None:
        raise SystemExit("No floor is known for a mixture of experts.")
    return matrices, matrices + c.vocab_size * c.hidden_size * (1 if c.tied else 2)


def gather(bytes: float, devices: int, chip: Chip, axes: int = 1) -> float:
    """Seconds until all of a ring have what each holds a part of, both ways round."""
    missing = bytes * (devices - 1) / devices
    return missing / (2 * chip.link * axes) + devices // 2 * chip.hop


def estimate(config: TransformerConfig, chip: Chip, mesh: Mesh, job: Job) -> Estimate:
    """The floors of one step in which every row has its full length."""
    layers, all = parameters(config)
    rows = job.prompts * job.group // mesh.fsdp
    lengths = np.full((job.prompts, job.group), job.time)
    work = count(
        config,
        lengths,
        prefix=job.prefix,
        reads=job.time,
        refills=False,
        itemsize=2,
    )
    # Weights are read by every chip of a data-parallel row: 2 bytes of each.
    embedding = 0 if config.tied else config.vocab_size * config.hidden_size
    read = 2 * (all - embedding) / mesh.tensor
    column = 4 * config.num_layers * config.num_kv_heads * config.head_dim / mesh.tensor
    looked_back = work.decode_bytes - job.time * 2 * (all - embedding)
    said = rows * config.hidden_size * 4
    exchange = 2 * gather(said, mesh.tensor, chip) if mesh.tensor > 1 else 0
    # Forward, and again for the backward pass; then the gradients, in float32.
    sent = mesh.microbatches * (2 * 2 + 4) * layers / mesh.tensor
    update = work.update_flops / mesh.count / chip.flops
    moving = gather(sent, mesh.fsdp, chip) if mesh.fsdp > 1 else 0
    laid_out = gather(2 * all / mesh.tensor, mesh.fsdp, chip) if mesh.fsdp > 1 else 0
    seconds = {
        "decoding reads weights": job.time * read / chip.bandwidth,
        "decoding reads caches": looked_back / mesh.count / chip.bandwidth,
        "decoding waits for links": job.time * 2 * config.num_layers * exchange,
        "products": work.prefill_flops / mesh.count / chip.flops + update,
        # What the products do not hide.
        "gathering weights": laid_out + max(moving - update, 0),
    }
    streams = rows / mesh.microbatches
    # What is recomputed from: a float32 for each layer, of a part and of its prompts.
    prompts = job.prompts / mesh.fsdp / max(mesh.microbatches // job.group, 1)
    kept = streams * job.time + prompts * job.prefix
    inputs = 4 * config.num_layers * config.hidden_size * kept
    # A part's gradients and two sums; the vocabulary's matrix, together, and its own.
    head = config.vocab_size * config.hidden_size / mesh.tensor
    gradients = (job.weight + 2 * 4) * all / mesh.count + (2 + 2 * 4) * head
    contexts = prompts * job.prefix * column
    # Blocks of logits, with what is made of them; those of attention are small.
    blocks = 4 * 3 * job.chunk * config.vocab_size / mesh.tensor
    return Estimate(
        seconds,
        {
            "state": 3 * job.weight * all / mesh.count,
            "decoding": 2 * all / mesh.tensor + contexts + rows * job.time * column,
            "updating": gradients + inputs + blocks + 3 * contexts,
        },
    )


def meshes(config: TransformerConfig, chips: int, job: Job) -> list[Mesh]:
    """Those in which every chip has whole heads and as many prompts as any other."""
    found = []
    for tensor in range(1, config.num_kv_heads + 1):
        fsdp = chips // tensor
        if chips % tensor or config.num_kv_heads % tensor or job.prompts % fsdp:
            continue
        parts = [n for n in range(1, job.group + 1) if job.group % n == 0]
        # More than samples: some of the prompts at a time.
        own = job.prompts // fsdp
        parts += [job.group * n for n in range(2, own + 1) if own % n == 0]
        found += [Mesh(fsdp, tensor, n) for n in parts]
    return found


def best(
    config: TransformerConfig, chip: Chip, chips: int, job: Job
) -> tuple[Mesh, Estimate, bool]:
    """The fastest mesh that fits in memory; the smallest one if none does."""
    every = [(m, estimate(config, chip, m, job)) for m in meshes(config, chips, job)]
    fitting = [x for x in every if x[1].memory <= 0.9 * chip.memory]
    if fitting:
        return (*min(fitting, key=lambda x: x[1].step), True)
    return (*min(every, key=lambda x: x[1].memory), False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    models = ["qwen2.5-7b", "qwen2.5-14b", "qwen2.5-32b", "llama-3-70b"]
    add("--models", nargs="+", choices=PRESETS, default=models)
    add("--chips", nargs="+", choices=CHIPS, default=["v5e", "v5p", "v6e"])
    add("--count", nargs="+", type=int, default=[16, 64, 256], help="of chips")
    add("--prompts", type=int, default=None, help="one per chip by default")
    add("--group", type=int, default=8)
    add("--prefix", type=int, default=512)
    add("--time", type=int, default=1024)
    add("--weights", default="float32", choices=["float32", "bfloat16"])
    options = parser.parse_args()
    weight = 4 if options.weights == "float32" else 2
    print("| model | chips | prompts | fsdp, tensor, microbatches | GB ", end="")
    print("| step s | decode s | update s | tokens/s per chip | bottleneck |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for model in options.models:
        config = PRESETS[model]
        for name in options.chips:
            chip = CHIPS[name]
            for chips in options.count:
                prompts = options.prompts or chips
                job = Job(prompts, options.group, options.prefix, options.time, weight)
                mesh, found, fits = best(config, chip, chips, job)
                decode = sum(
                    s for n, s in found.seconds.items() if n.startswith("decoding")
                )
                memory = f"{found.memory / 1e9:.1f}"
                memory += "" if fits else " (does not fit)"
                rate = prompts * options.group * options.time / found.step / chips
                print(
                    f"| {model} | {chips} {name} | {prompts} | {mesh.fsdp}, "
                    f"{mesh.tensor}, {mesh.microbatches} | {memory} | "
                    f"{found.step:.1f} | {decode:.1f} | {found.step - decode:.1f} | "
                    f"{rate:,.0f} | {found.bottleneck} |"
                )
    print()
    for bottleneck, lever in LEVERS.items():
        print(f"- {bottleneck}: {lever}")


if __name__ == "__main__":
    main()
