"""Measures of answers to problems, with intervals; on the host.

Means and shares have the intervals of `mean_over_problems` and `mean_reward`, other
statistics those of `bootstrap`. An environment with measures of its own has them as
`own_measures`, an `AbstractMeasures`.
"""

from ._intervals import (
    bootstrap as bootstrap,
    mean_over_problems as mean_over_problems,
    mean_reward as mean_reward,
    Measure as Measure,
    wilson as wilson,
)
from ._measured import (
    AbstractMeasures as AbstractMeasures,
    Answers as Answers,
    Measured as Measured,
)
from ._regression import (
    calibration_error as calibration_error,
    calibration_line as calibration_line,
    direction_accuracy as direction_accuracy,
    directions as directions,
    kl_of_changes as kl_of_changes,
    mean_absolute_error as mean_absolute_error,
    r_squared as r_squared,
    root_mean_squared_error as root_mean_squared_error,
)
