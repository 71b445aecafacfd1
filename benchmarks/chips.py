"""Published specifications of accelerators.

Peak of bfloat16 products, memory, memory bandwidth, and the links between chips:
<https://cloud.google.com/tpu/docs/v5e>, `v5p-training` and `v6e` beside it, read in
November 2026. A chip's interconnect bandwidth, which counts both directions of all of
its links, is divided by them. The latency of a hop is that of "How to Scale Your
Model", <https://jax-ml.github.io/scaling-book/tpus>: about a microsecond. The clock
rate follows from the peak and the number of matrix units. The H100 is NVIDIA's SXM,
with NVLink.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """**Fields:** `flops` a second, `memory` in bytes, `bandwidth` of the memory and of
    one `link` in one direction in bytes a second, `clock` in Hz, `hop` in seconds."""

    flops: float
    memory: float
    bandwidth: float
    link: float
    clock: float
    hop: float = 1e-6


CHIPS = {
    "v5e": Chip(
        flops=197e12, memory=16e9, bandwidth=819e9, link=400e9 / 8, clock=1.5e9
    ),
    "v5p": Chip(
        flops=459e12, memory=95e9, bandwidth=2765e9, link=1200e9 / 12, clock=1.75e9
    ),
    "v6e": Chip(
        flops=918e12, memory=32e9, bandwidth=1600e9, link=800e9 / 8, clock=1.75e9
    ),
    "h100": Chip(
        flops=989e12, memory=80e9, bandwidth=3350e9, link=900e9 / 2, clock=1.98e9
    ),
}
