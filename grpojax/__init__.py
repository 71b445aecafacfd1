"""GRPO post-training of language models as one pure JAX function."""

from . import (
    advantage as advantage,
    algorithms as algorithms,
    env as env,
    masked as masked,
    models as models,
    policy as policy,
    reward as reward,
    rollout as rollout,
    text as text,
    types as types,
    update as update,
)
from .train import (
    init as init,
    measure as measure,
    train as train,
    train_step as train_step,
)
from .types import (
    Metrics as Metrics,
    Prompt as Prompt,
    Rewards as Rewards,
    TrainState as TrainState,
    Trajectory as Trajectory,
)
from .validation import validate as validate, ValidationError as ValidationError
