"""Attention on an NVIDIA GPU, in one Pallas kernel."""

from ._blocks import (
    kernel_config as kernel_config,
    KernelConfig as KernelConfig,
    MaskedCache as MaskedCache,
    supports_kernel as supports_kernel,
)
from ._kernel import backward as backward, forward as forward
