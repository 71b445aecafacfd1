"""Mixtures of experts: the router, and the MLPs that it chooses for every token."""

from ._mlp import (
    apply_experts as apply_experts,
    ExpertAxes as ExpertAxes,
    ExpertBiases as ExpertBiases,
    ExpertMatrices as ExpertMatrices,
)
from ._router import choose_experts as choose_experts, Routing as Routing
