"""What comes after attention in a layer: an MLP or experts."""

from ._mlp import (
    add_mlp as add_mlp,
    mlp_numbers as mlp_numbers,
    no_use as no_use,
)
