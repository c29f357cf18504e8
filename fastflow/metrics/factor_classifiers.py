"""Factor metrics that learn to tell or predict factors: BetaVAE, FactorVAE and DCI.

All take codes (N, d), float, and factors (N, F), integer, as tensors or arrays, and raise InputError where either has
NaN, a constant column or too few rows, or their lengths differ. What is learned from, chosen by and measured on are
different samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from fastflow.core.errors import InputError
from fastflow.core.plugins import imported
from fastflow.metrics.factor_tables import Array, Rows, Sizes, check_categorical, check_parts, checked, ranked, split

BATCH = 64
"""Samples, or pairs, that agree in one factor."""
BATCHES = 5_000
"""How many such batches are drawn from each part."""
STRENGTHS = (1e-2, 1.0, 1e2)
"""Inverse regularization that the BetaVAE metric's classifier is tried with."""
DEPTHS = (4, 8, 12)
"""That DCI's trees are tried with."""
TREES = 10
"""Of a forest (Eastwood and Williams)."""


@dataclass(frozen=True)
class BetaVAE:
    """Whether differences of codes tell which factor two samples share."""

    score: float
    """Accuracy on the test part; 1 / F by guessing."""
    validation: float
    train: float
    inverse_regularization: float
    """The one chosen on the validation part."""
    sizes: Sizes


@dataclass(frozen=True)
class FactorVAE:
    """Whether the code that varies least tells which factor samples share."""

    score: float
    """Accuracy on the test part; 1 / F by guessing."""
    train: float
    votes: list[list[int]]
    """(F, d): how often code i varied least where factor f was shared, in the part learned from."""
    pruned: list[int]
    """Codes left out."""
    sizes: Sizes


@dataclass(frozen=True)
class DCI:
    """Disentanglement, completeness and informativeness."""

    disentanglement: float
    """In [0, 1]: 1 where each code matters for one factor."""
    completeness: float
    """In [0, 1]: 1 where one code matters for each factor."""
    informativeness: float
    """The mean over factors of what is predicted on the test part, at most 1; see `told`."""
    importance: list[list[float]]
    """(d, F): how much code i matters for factor f; each factor's sum is 1."""
    per_code: list[float]
    """(d,): disentanglement of each code."""
    per_factor: list[float]
    """(F,): completeness of each factor."""
    told: list[float]
    """(F,): R^2 on the test part, or accuracy for a factor without order."""
    validation: list[float]
    """(F,): the same on the validation part, by which the depth was chosen."""
    depth: list[int]
    """(F,): of each factor's trees."""
    sizes: Sizes

    @property
    def score(self) -> float:
        """Disentanglement."""
        return self.disentanglement


def beta_vae(codes: Array, factors: Array, seed: int = 0, *, progress: bool = True) -> BetaVAE:
    """The BetaVAE metric (Higgins et al., ICLR 2017, section 3).

    A factor f is drawn, and 64 pairs of samples that agree in it; a linear classifier must name f from the mean of
    |z - z'| over the pairs. It is a logistic regression on standardised inputs, its regularization chosen on the
    validation part. The pairs agree in f and are otherwise drawn from the samples given: where these are no full grid,
    factors that go together there go together here.

    Args:
        seed: of the split and the draws.

    Raises:
        InputError: also where no two samples of a part agree in some factor.
    """
    values, known = checked(codes, factors, seed, least_factors=2)
    linear = imported("sklearn.linear_model", "metrics", "the BetaVAE metric")
    rows = split(len(values), seed)

    def differences(group: _Group, count: int, rng: np.random.Generator) -> np.ndarray:
        first = rng.choice(group.shared, (count, BATCH))
        return abs(values[first] - values[group.another(first, rng)]).mean(1)  # [count, d]

    parts = [_drawn(rows, part, ranked(known), differences, seed, "BetaVAE", progress) for part in range(3)]
    mean, spread = parts[0][0].mean(0), parts[0][0].std(0)
    spread = np.where(spread > 0, spread, 1)  # a code may vary in other parts alone
    train, validation, test = (((x - mean) / spread, labels) for x, labels in parts)
    models = {
        strength: linear.LogisticRegression(C=strength, max_iter=1000).fit(*train)
        for strength in tqdm(STRENGTHS, desc="BetaVAE, classifiers", leave=False, disable=not progress)
    }
    best = max(STRENGTHS, key=lambda strength: models[strength].score(*validation))
    told, chosen, learned = (float(models[best].score(*part)) for part in (test, validation, train))
    return BetaVAE(told, chosen, learned, best, rows.sizes())


def factor_vae(
    codes: Array, factors: Array, seed: int = 0, *, pruned_below: float = 0.0, progress: bool = True
) -> FactorVAE:
    """The FactorVAE metric (Kim and Mnih, ICML 2018, section 4).

    A factor f is drawn, and 64 samples that share one value of it; the code whose variance there is the smallest part
    of its variance over all samples votes for f. Each code is taken to name the factor that it voted for most often, in
    votes on one part, and the score is how often that is right in votes on another. The 64 samples share f's value and
    are otherwise drawn from the samples given, as in `beta_vae`.

    Args:
        seed: of the split and the draws.
        pruned_below: codes with a smaller standard deviation have no vote: a VAE's collapsed ones, for instance, with
            0.05, where all codes are measured against a prior of standard deviation 1.

    Raises:
        InputError: also where no two samples of a part agree in some factor, or no code is left to vote.
    """
    values, known = checked(codes, factors, seed, least_factors=2)
    spread = values.std(0)
    voting = np.flatnonzero(spread >= pruned_below)
    if not len(voting):
        raise InputError(f"pruned_below must leave a code to vote, the largest deviation is {spread.max():.3g}")
    scaled = (values / spread)[:, voting]
    rows = split(len(values), seed)
    width = known.shape[1]

    def voters(group: _Group, count: int, rng: np.random.Generator) -> np.ndarray:
        first = rng.choice(group.shared, (count, 1)).repeat(BATCH, 1)
        return voting[scaled[group.any(first, rng)].var(1, ddof=1).argmin(1)]

    votes = []
    for part in (0, 2):
        voter, factor = _drawn(rows, part, ranked(known), voters, seed, "FactorVAE", progress)
        count = np.bincount(factor * values.shape[1] + voter, minlength=width * values.shape[1])
        votes.append(count.reshape(width, -1))
    named = votes[0].argmax(0)  # (d,)
    test, train = (float(v[named, np.arange(v.shape[1])].sum() / v.sum()) for v in reversed(votes))
    pruned = np.flatnonzero(spread < pruned_below).tolist()
    sizes = Sizes(len(rows.train), 0, len(rows.test))
    return FactorVAE(test, train, votes[0].tolist(), pruned, sizes)


def dci(codes: Array, factors: Array, seed: int = 0, *, categorical: Sequence[int] = (), progress: bool = True) -> DCI:
    """Disentanglement, completeness and informativeness (Eastwood and Williams, ICLR 2018, section 2).

    A random forest of 10 trees predicts each factor from all codes; R is its table of importances, (d, F). With P_if =
    R_if / sum_g R_ig, the disentanglement of code i is 1 - H(P_i) in logarithms to the base F, and their mean is
    weighted by sum_f R_if. With Q_if = R_if / sum_j R_jf, the completeness of factor f is 1 - H(Q_f) to the base d, and
    their mean is weighted by sum_i R_if, which is 1. Informativeness is R^2 of the forest's predictions on the test
    part, where the paper has the root of 1 - R^2, an error. The depth of each factor's trees, 4, 8 or 12, is chosen on
    the validation part.

    Args:
        categorical: the columns of factors without order, such as a shape: a forest of classifiers tells them, and
            accuracy takes the place of R^2.
        seed: of the split and the forests.
    """
    values, known = checked(codes, factors, seed, least_codes=2, least_factors=2)
    unordered = check_categorical(categorical, known)
    ensemble = imported("sklearn.ensemble", "metrics", "DCI")
    rows = split(len(values), seed)
    check_parts(known, range(known.shape[1]), rows)
    state = int(np.random.default_rng((seed, 1)).integers(2**31))
    columns: list[tuple[np.ndarray, float, float, int]] = []
    with tqdm(total=known.shape[1] * len(DEPTHS), desc="DCI", unit="forest", leave=False, disable=not progress) as bar:
        for f, v in enumerate(known.T):
            kind = ensemble.RandomForestClassifier if f in unordered else ensemble.RandomForestRegressor
            best: tuple[float, int, Any] | None = None
            for depth in DEPTHS:
                forest = kind(TREES, max_depth=depth, max_features=1.0, random_state=state)
                forest.fit(values[rows.train], v[rows.train])
                reached = float(forest.score(values[rows.validation], v[rows.validation]))
                best = (reached, depth, forest) if best is None or reached > best[0] else best
                bar.update()
            assert best is not None
            reached, depth, forest = best
            told = float(forest.score(values[rows.test], v[rows.test]))
            columns.append((forest.feature_importances_, told, reached, depth))
    importance = np.stack([column[0] for column in columns], 1)
    per_code, per_factor = 1 - _entropies(importance), 1 - _entropies(importance.T)
    told = [column[1] for column in columns]
    return DCI(
        disentanglement=float(np.average(per_code, weights=importance.sum(1))),
        completeness=float(np.average(per_factor, weights=importance.sum(0))),
        informativeness=float(np.mean(told)),
        importance=importance.tolist(),
        per_code=per_code.tolist(),
        per_factor=per_factor.tolist(),
        told=told,
        validation=[column[2] for column in columns],
        depth=[column[3] for column in columns],
        sizes=rows.sizes(),
    )


class _Group:
    """The samples of a part, by their value of one factor.

    Attributes:
        shared: those that are not alone in their value, as rows of the whole.
    """

    def __init__(self, part: np.ndarray, v: np.ndarray) -> None:
        values = v[part]
        self._order = part[values.argsort(kind="stable")]
        counts = np.bincount(values, minlength=int(v.max()) + 1)
        self._start, self._count = np.cumsum(counts) - counts, counts
        self._value = v
        self._place = np.zeros(len(v), np.int64)
        self._place[self._order] = np.arange(len(part))
        self.shared = part[counts[values] > 1]

    def any(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """For each row one that shares its value, itself perhaps."""
        v = self._value[rows]
        return self._order[self._start[v] + rng.integers(self._count[v])]

    def another(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """For each row another that shares its value."""
        v = self._value[rows]
        onwards = self._place[rows] - self._start[v] + 1 + rng.integers(self._count[v] - 1)
        return self._order[self._start[v] + onwards % self._count[v]]


def _drawn(
    rows: Rows,
    part: int,
    known: np.ndarray,
    draw: Callable[[_Group, int, np.random.Generator], np.ndarray],
    seed: int,
    name: str,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """What `draw` makes of BATCHES batches of a part that agree in a factor, as many for each, and the factors (n,)."""
    rng = np.random.default_rng((seed, 2, part))
    found, labels = [], []
    each = BATCHES // known.shape[1]
    with tqdm(
        total=each * known.shape[1],
        desc=f"{name}, {rows._fields[part]}",
        unit="batch",
        leave=False,
        disable=not progress,
    ) as bar:
        for f, v in enumerate(known.T):
            group = _Group(rows[part], v)
            if not len(group.shared):
                raise InputError(f"no two of {len(rows[part])} samples agree in factor {f}: give more, or leave it out")
            for first in range(0, each, 250):  # batches at once: their codes together are 250 x 64 x d numbers
                count = min(250, each - first)
                found.append(draw(group, count, rng))
                labels.append(np.full(count, f))
                bar.update(count)
    return np.concatenate(found), np.concatenate(labels)


def _entropies(table: np.ndarray) -> np.ndarray:
    """The entropy of each row of a table (n, m), scaled to sum 1, in logarithms to the base m; 1 for a row of zeros."""
    total = table.sum(1, keepdims=True)
    share = np.where(total > 0, table / np.where(total > 0, total, 1), 1 / table.shape[1])
    return -(share * np.log(np.where(share > 0, share, 1))).sum(1) / np.log(table.shape[1])
