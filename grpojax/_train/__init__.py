"""The train step, and its two halves."""

from ._experience import collect as collect, Experience as Experience
from ._step import (
    init as init,
    learn as learn,
    train as train,
    train_step as train_step,
    TrainStep as TrainStep,
)
