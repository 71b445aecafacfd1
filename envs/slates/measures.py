"""Measures of slates and of opinions, under the origin's names."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from grpojax import measures
from grpojax.measures import (
    AbstractMeasures,
    Answers,
    bootstrap,
    mean_reward,
    Measure,
    Measured,
)

from .answers import DIRECTIONS


Scores = Float[np.ndarray, "problem sample"]

_GROUPS = ("issue", "participant_study")
_MOST = 5  # From it on options are one bucket.


@dataclasses.dataclass(frozen=True)
class SlateMeasures(AbstractMeasures):
    """Of choices from slates: the accuracy by buckets, and trivial policies.

    - `accuracy_overall`: of problems whose chosen option is known.
    - `parsed_rate`, `format_rate`: how many completions have an answer, and a plain
        one.
    - `accuracy_by_position/N`, `accuracy_by_options/N`: by the number of the chosen
        option, and of options; 5 and more together as `5+`.
    - `accuracy_by_issue/NAME`, `accuracy_by_participant_study/NAME`.
    - `bayes_accuracy`: of the best policy, of generated rows.
    - baselines: `most_frequent_gold_index` of these problems, `random`, `always_first`
        and `always_last`.

    **Fields:**

    - `reward`: which is 1 for the chosen option.
    - `others`: names of further rewards, whose means are `NAME_accuracy`.
    """

    reward: str = "correct"
    others: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        bayes = [f"bayes_{name}" for name in ("accuracy", *self.others)]
        return *_IDS, "gold_index", "n_options", *bayes

    @property
    def names(self) -> tuple[str, ...]:
        return "accuracy_overall", "parsed_rate", "format_rate"

    def __call__(self, answers: Answers) -> Measured:
        gold, options = answers.numbers("gold_index"), answers.numbers("n_options")
        known = np.isfinite(gold) & (gold > 0) & (options > 0)
        right = np.where(known[:, None], answers.rewards[self.reward], np.nan)
        shares = {"accuracy_overall": _mean(right)}
        shares |= _common(answers)
        for name in self.others:
            shares[f"{name}_accuracy"] = _mean(answers.rewards[name])
            shares[f"bayes_{name}"] = _of_column(answers, f"bayes_{name}")
        for name, numbers in {"position": gold, "options": options}.items():
            where = [
                _bucket(x) if eligible else None
                for x, eligible in zip(numbers, known, strict=True)
            ]
            shares |= _by(f"accuracy_by_{name}", where, right, _mean)
        for name in _GROUPS:
            shares |= _by(f"accuracy_by_{name}", answers.columns[name], right, _mean)
        baselines = {}
        if np.any(known):
            counts = np.bincount(gold[known].astype(int))
            constants = {
                "most_frequent_gold_index": gold == np.argmax(counts),
                "random": 1 / np.maximum(options, 1),
                "always_first": gold == 1,
                "always_last": gold == options,
            }
            for name, hits in constants.items():
                scores = np.where(known, hits, np.nan)[:, None]
                baselines[name] = _mean(scores)
        return Measured(_kept(shares), {}, _kept(baselines))


@dataclasses.dataclass(frozen=True)
class DirectionMeasures(AbstractMeasures):
    """Of directions of opinions: the accuracy by groups, and trivial policies.

    - `direction_accuracy`, `parsed_rate`, `format_rate`, `bayes_accuracy`.
    - `direction_accuracy_by_issue/NAME`, `..._by_participant_study/NAME`.
    - baselines: `always_increase`, `always_decrease`, `no_change` and `random`.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        return *_IDS, "before", "after", "direction", "bayes_accuracy"

    @property
    def names(self) -> tuple[str, ...]:
        return "direction_accuracy", "parsed_rate", "format_rate"

    def __call__(self, answers: Answers) -> Measured:
        right = answers.rewards["correct"]
        shares = {"direction_accuracy": _mean(right), **_common(answers)}
        for name in _GROUPS:
            where = answers.columns[name]
            shares |= _by(f"direction_accuracy_by_{name}", where, right, _mean)
        found = answers.columns["direction"]
        baselines: dict[str, Measure | None] = {
            "random": _mean(np.full(right.shape, 1 / 3))
        }
        for label in DIRECTIONS:
            name = label if label == "no_change" else f"always_{label}"
            hits = np.array([[float(x == label)] for x in found])
            baselines[name] = _mean(hits)
        return Measured(_kept(shares), {}, _kept(baselines))


@dataclasses.dataclass(frozen=True)
class OpinionMeasures(AbstractMeasures):
    """Of predicted opinions: errors, directions and calibration of the change.

    With the opinion after y, before b, and the prediction p, all in [0, 1]; completions
    without a number are left out of all but the rates.

    - `mae_after`, `rmse_after`, `r2_after`: of p and y; `mae_change`, `rmse_change`: of
        p - b and y - b, which is the same.
    - `direction_accuracy`: of p - b; a change of at most `tolerance` is none.
    - `calibration_slope`, `calibration_intercept`, `calibration_ece`,
        `kl_divergence_change`: of p - b and y - b; see `grpojax.measures`.
    - `parsed_rate`, `format_rate`, `clipped_rate`: how many completions have a number,
        a plain one, and one above 100.
    - `mae_after_by_issue/NAME`, `mae_after_by_participant_study/NAME`.
    - `bayes_mae`: of the best policy, of generated rows.
    - `baseline_mae_global_mean`, `baseline_rmse_global_mean`: always the mean of y;
      `baseline_mae_using_before`, `baseline_rmse_using_before` and
      `baseline_direction_accuracy`: no change.

    **Fields:**

    - `tolerance`: of directions.
    """

    tolerance: float = 1e-6

    @property
    def columns(self) -> tuple[str, ...]:
        return *_IDS, "before", "after", "bayes_mae"

    @property
    def names(self) -> tuple[str, ...]:
        errors = ("mae_after", "rmse_after", "mae_change", "rmse_change")
        return *errors, "direction_accuracy", "parsed_rate", "format_rate"

    def __call__(self, answers: Answers) -> Measured:
        scale = lambda name: np.broadcast_to(
            answers.numbers(name)[:, None], answers.answer.shape
        )
        before, after = scale("before"), scale("after")
        predicted = np.minimum(answers.answer, 100) / 100
        shares = {
            **_common(answers),
            "clipped_rate": _mean((answers.answer > 100).astype(float)),
            **self._directions("direction_accuracy", before, after, predicted),
            **self._directions("baseline_direction_accuracy", before, after, before),
        }
        numbers = {**_changes(before, after, predicted), **_after(after, predicted)}
        mean = np.full(
            after.shape, np.nanmean(after) if np.isfinite(after).any() else np.nan
        )
        for name, other in {"using_before": before, "global_mean": mean}.items():
            mae, rmse = measures.mean_absolute_error, measures.root_mean_squared_error
            numbers[f"baseline_mae_{name}"] = _pairs(mae, after, other)
            numbers[f"baseline_rmse_{name}"] = _pairs(rmse, after, other)
        for name in _GROUPS:
            where, off = answers.columns[name], np.abs(predicted - after)
            numbers |= _by(f"mae_after_by_{name}", where, off, _number)
        numbers["bayes_mae"] = _of_column(answers, "bayes_mae")
        return Measured(_kept(shares), _kept(numbers))

    def _directions(
        self, name: str, before: Scores, after: Scores, predicted: Scores
    ) -> dict[str, Measure | None]:
        # A change of the tolerance itself is none, whatever the rounding.
        moves = lambda x: measures.directions(x - before, self.tolerance + 1e-6)
        same = (moves(predicted) == moves(after)).astype(float)
        return {name: _mean(np.where(np.isfinite(predicted - after), same, np.nan))}


_IDS = ("uid", *_GROUPS, "participant_id")


def _after(after: Scores, predicted: Scores) -> dict[str, Measure | None]:
    return {
        "mae_after": _pairs(measures.mean_absolute_error, after, predicted),
        "rmse_after": _pairs(measures.root_mean_squared_error, after, predicted),
        "r2_after": _pairs(measures.r_squared, after, predicted),
    }


def _changes(
    before: Scores, after: Scores, predicted: Scores
) -> dict[str, Measure | None]:
    statistics: dict[str, Callable[..., float]] = {
        "mae_change": measures.mean_absolute_error,
        "rmse_change": measures.root_mean_squared_error,
        "calibration_slope": lambda y, p: measures.calibration_line(y, p)[0],
        "calibration_intercept": lambda y, p: measures.calibration_line(y, p)[1],
        "calibration_ece": measures.calibration_error,
        "kl_divergence_change": measures.kl_of_changes,
    }
    truth, change = after - before, predicted - before
    return {name: _pairs(x, truth, change) for name, x in statistics.items()}


def _pairs(
    statistic: Callable[..., float], truth: Scores, predicted: Scores
) -> Measure | None:
    """A statistic of the pairs of which both numbers are known."""

    def of_known(truth: Scores, predicted: Scores) -> float:
        known = np.isfinite(truth) & np.isfinite(predicted)
        return statistic(truth[known], predicted[known])

    rows = np.any(np.isfinite(truth) & np.isfinite(predicted), axis=1)
    return bootstrap(of_known, truth[rows], predicted[rows])


def _common(answers: Answers) -> dict[str, Measure | None]:
    return {
        "parsed_rate": _mean(np.isfinite(answers.answer).astype(float)),
        "format_rate": _mean(answers.rewards["format"]),
        "bayes_accuracy": _of_column(answers, "bayes_accuracy"),
    }


def _of_column(answers: Answers, name: str) -> Measure | None:
    return _number(answers.numbers(name)[:, None])


def _number(scores: Scores) -> Measure | None:
    """A mean of numbers, which are no successes and failures."""
    return _pairs(lambda scores, _: np.mean(scores), scores, scores)


def _by(
    name: str,
    buckets: Sequence[object],
    scores: Scores,
    measure: Callable[[Scores], Measure | None],
) -> dict[str, Measure | None]:
    """A measure of the problems in each bucket, in natural order."""
    known = sorted({str(x) for x in buckets if x is not None})
    rows = {x: [str(y) == x for y in buckets] for x in known}
    return {f"{name}/{x}": measure(scores[np.array(rows[x])]) for x in known}


def _bucket(number: float) -> str:
    return f"{_MOST}+" if number >= _MOST else str(int(number))


def _mean(scores: Scores) -> Measure | None:
    return mean_reward(scores.tolist())


def _kept(found: Mapping[str, Measure | None]) -> dict[str, Measure]:
    return {name: measure for name, measure in found.items() if measure is not None}
