"""The train step, and its two halves."""

from ._average import averaged as averaged, Averaging as Averaging
from ._experience import collect as collect, Experience as Experience
from ._init import init as init
from ._measure import measure as measure
from ._source import RolloutSource as RolloutSource
from ._step import (
    learn as learn,
    train as train,
    train_step as train_step,
    TrainStep as TrainStep,
)
from ._supervised import (
    Demonstrations as Demonstrations,
    SupervisedStep as SupervisedStep,
)
