"""The estimators' formulas in NumPy, over ragged lists of groups, in float64.

Each maps a list of groups to a list of advantages and shares no code with the library.
"""

from typing import NamedTuple

import numpy as np


WEIGHTS = (1.0, 0.5)


class Group(NamedTuple):
    """Rows of one prompt: two components, and lengths in tokens."""

    a: np.ndarray
    b: np.ndarray
    n: np.ndarray

    @property
    def r(self) -> np.ndarray:
        total = WEIGHTS[0] * self.a + WEIGHTS[1] * self.b
        return total.astype(np.float64)


def _std(x, ddof) -> float:
    return float(np.std(x, ddof=ddof)) if len(x) > ddof else 0.0


def _mean(x) -> float:
    return float(np.mean(x)) if len(x) else 0.0


def _normalized(x, eps, ddof):
    return (x - _mean(x)) / (_std(x, ddof) + eps)


def _rewards(groups):
    return [group.r for group in groups]


def _over_batch(values, change):
    """Applies a change to all rows together and hands them back group by group."""
    ends = np.cumsum([len(x) for x in values])[:-1]
    return np.split(change(np.concatenate(values)), ends)


def group_centered(groups):
    return [r - _mean(r) for r in _rewards(groups)]


def GroupNormalized(eps, ddof):
    return lambda groups: [_normalized(r, eps, ddof) for r in _rewards(groups)]


def leave_one_out(groups):
    return [
        np.array([r[i] - _mean(np.delete(r, i)) for i in range(len(r))])
        if len(r) > 1
        else np.zeros(len(r))
        for r in _rewards(groups)
    ]


def BatchNormalized(eps, ddof):
    change = lambda x: _normalized(x, eps, ddof)
    return lambda groups: _over_batch(_rewards(groups), change)


def BatchScaled(eps):
    def advantages(groups):
        spread = _std(np.concatenate(_rewards(groups)), 1)
        return [x / (spread + eps) for x in group_centered(groups)]

    return advantages


def BestOfGroup(eps):
    def one(r):
        advantage = np.zeros(len(r))
        if len(r) > 1:
            second, best = np.sort(r)[-2:]
            advantage[np.argmax(r)] = (best - second) / (_std(r, 1) + eps)
        return advantage

    return lambda groups: [one(r) for r in _rewards(groups)]


def DapoMix(alpha, eps):
    def advantages(groups):
        within = GroupNormalized(eps, 0)(groups)
        across = BatchNormalized(eps, 0)(groups)
        return [x + alpha * y for x, y in zip(within, across, strict=True)]

    return advantages


def Gdpo(eps):
    def advantages(groups):
        z = lambda x: _normalized(x.astype(np.float64), eps, 1)
        sums = [WEIGHTS[0] * z(g.a) + WEIGHTS[1] * z(g.b) for g in groups]
        return _over_batch(sums, lambda x: _normalized(x, eps, 1))

    return advantages


def reinforce_plus_plus(baseline):
    """Whitens as verl does: every row's value written on each of its tokens."""

    def advantages(groups):
        values = group_centered(groups) if baseline else _rewards(groups)
        tokens = np.repeat(
            np.concatenate(values), np.concatenate([g.n for g in groups])
        )
        scale = 1 / np.sqrt(_std(tokens, 1) ** 2 + 1e-8)
        return [(x - _mean(tokens)) * scale for x in values]

    return advantages


def opo(groups):
    return [g.r - (np.average(g.r, weights=g.n) if len(g.r) else 0.0) for g in groups]
