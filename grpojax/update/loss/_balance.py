"""The load-balance loss of a mixture of experts."""

from ..._checks import check_at_least
from ...types import FloatLike
from ._inputs import LossInputs, PerToken
from ._penalty import AbstractPenalty


class LoadBalance(AbstractPenalty):
    """A penalty coefficient · E Σ_e f_e P_e, which is least where experts share evenly.

    Over the N tokens that are trained on, and the L layers with experts, f_e is the
    share of the N L choices of a router that include expert e, and P_e its mean
    probability; E counts the experts of a layer. It is what `transformers` adds to a
    loss as `router_aux_loss_coef · aux_loss`. The shares have no gradient: an update
    runs the policy once more to know those of all its tokens, so that the loss does not
    depend on the size of a microbatch.

    **Fields:**

    - `coefficient`: 0.001 in `transformers`; 0 measures alone.

    Source: Switch Transformers, arXiv:2101.03961, equations 4 to 6.
    """

    coefficient: FloatLike = 0.001

    def __check_init__(self):
        check_at_least("LoadBalance", 0, coefficient=self.coefficient)

    def __call__(self, inputs: LossInputs) -> PerToken:
        """E Σ_e f_e p_e of every token, whose mean is the loss."""
        if inputs.balance is None:
            raise ValueError(
                "A load-balance penalty needs the router's probabilities of every "
                "token. Received none: `update.improve` computes them, for a policy "
                "with experts."
            )
        return inputs.balance
