"""Factor metrics that train classifiers or regressors: BetaVAE, FactorVAE and DCI.

All take floating-point codes (N, d) and whole-number factors (N, F), as tensors or arrays. They raise InputError where
codes or factors have NaN, a constant column or too few rows, or where their lengths differ. The training, validation
and test parts are different samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from fastflow.core.errors import InputError
from fastflow.core.plugins import imported
from fastflow.metrics.factor_tables import Array, Rows, Sizes, check_categorical, check_parts, checked, numbered, split

BATCH = 64
"""The number of samples, or pairs, in a batch that agrees in one factor."""
BATCHES = 5_000
"""The number of batches drawn from each part."""
STRENGTHS = (1e-2, 1.0, 1e2)
"""The inverse regularization strengths among which the BetaVAE metric chooses."""
DEPTHS = (4, 8, 12)
"""The depths of trees among which DCI chooses."""
TREES = 10
"""The number of trees in a forest (Eastwood and Williams)."""


@dataclass(frozen=True)
class BetaVAE:
    """How well the differences of codes predict which factor two samples share."""

    score: float
    """The accuracy on the test part; 1 / F by guessing."""
    validation: float
    """The accuracy on the validation part."""
    train: float
    """The accuracy on the training part."""
    inverse_regularization: float
    """The value chosen on the validation part."""
    sizes: Sizes


@dataclass(frozen=True)
class FactorVAE:
    """How well the code that varies least predicts which factor samples share."""

    score: float
    """The accuracy on the test part; 1 / F by guessing."""
    train: float
    """The accuracy on the training part."""
    votes: list[list[int]]
    """(F, d): how often code i varied least where factor f was shared, in the training part."""
    pruned: list[int]
    """The codes that were left out."""
    sizes: Sizes


@dataclass(frozen=True)
class DCI:
    """The disentanglement, completeness and informativeness of codes."""

    disentanglement: float
    """A number in [0, 1]: 1 where each code matters for one factor."""
    completeness: float
    """A number in [0, 1]: 1 where one code matters for each factor."""
    informativeness: float
    """The mean over the factors of `told`, at most 1."""
    importance: list[list[float]]
    """(d, F): how much code i matters for factor f; the sum for each factor is 1."""
    per_code: list[float]
    """(d,): the disentanglement of each code."""
    per_factor: list[float]
    """(F,): the completeness of each factor."""
    told: list[float]
    """(F,): R^2 on the test part, or the accuracy for a factor without an order."""
    validation: list[float]
    """(F,): the same on the validation part, by which the depth was chosen."""
    depth: list[int]
    """(F,): the depth of each factor's trees."""
    sizes: Sizes

    @property
    def score(self) -> float:
        """The disentanglement, by which models are ranked."""
        return self.disentanglement


def beta_vae(codes: Array, factors: Array, seed: int = 0, *, progress: bool = True) -> BetaVAE:
    """The BetaVAE metric (Higgins et al., ICLR 2017, section 3).

    A factor f is drawn, and 64 pairs of samples that agree in f. A linear classifier must name f from the mean of
    |z - z'| over the pairs. It is a logistic regression on standardised inputs, whose regularization is chosen on the
    validation part. Apart from agreeing in f, the pairs are drawn from the samples as given: where these aren't a full
    grid, factors that are correlated in the samples are correlated in the pairs.

    Args:
        codes: (N, d), floating point.
        factors: (N, F), whole numbers.
        seed: the seed of the split and the draws.
        progress: show progress bars.

    Raises:
        InputError: also if no two samples of a part agree in some factor.
    """
    values, known = checked(codes, factors, seed, least_factors=2)
    linear = imported("sklearn.linear_model", "metrics", "the BetaVAE metric")
    rows = split(len(values), seed)

    def differences(group: _Group, count: int, rng: np.random.Generator) -> np.ndarray:
        first = rng.choice(group.shared, (count, BATCH))
        return abs(values[first] - values[group.another(first, rng)]).mean(1)  # [count, d]

    parts = [
        _batches(rows, part, numbered(known), differences, seed=seed, name="BetaVAE", progress=progress)
        for part in range(3)
    ]
    mean, spread = parts[0][0].mean(0), parts[0][0].std(0)
    spread = np.where(spread > 0, spread, 1)  # a code may vary in other parts only
    train, validation, test = (((x - mean) / spread, labels) for x, labels in parts)
    models = {
        strength: linear.LogisticRegression(C=strength, max_iter=1000).fit(*train)
        for strength in tqdm(STRENGTHS, desc="BetaVAE, classifiers", leave=False, disable=not progress)
    }
    best = max(STRENGTHS, key=lambda strength: models[strength].score(*validation))
    score, chosen_by, learned = (float(models[best].score(*part)) for part in (test, validation, train))
    return BetaVAE(score, chosen_by, learned, best, rows.sizes())


def factor_vae(
    codes: Array, factors: Array, seed: int = 0, *, pruned_below: float = 0.0, progress: bool = True
) -> FactorVAE:
    """The FactorVAE metric (Kim and Mnih, ICML 2018, section 4).

    A factor f is drawn, and 64 samples that share one value of f. The code whose variance in them is the smallest share
    of its variance over all samples votes for f. By the votes on the training part, each code stands for the factor
    that it voted for most often; the score is how often that is right in the votes on the test part. Apart from sharing
    f's value, the samples are drawn as given, as in `beta_vae`.

    Args:
        codes: (N, d), floating point.
        factors: (N, F), whole numbers.
        seed: the seed of the split and the draws.
        pruned_below: codes with a smaller standard deviation have no vote. Where the prior's standard deviation is 1,
            0.05 leaves out the codes of a VAE that have collapsed.
        progress: show progress bars.

    Raises:
        InputError: also if no two samples of a part agree in some factor, or no code is left to vote.
    """
    values, known = checked(codes, factors, seed, least_factors=2)
    spread = values.std(0)
    voting = np.flatnonzero(spread >= pruned_below)
    if not len(voting):
        raise InputError(
            f"pruned_below must leave a code that can vote: take at most {spread.max():.3g}, the largest deviation"
        )
    scaled = (values / spread)[:, voting]
    rows = split(len(values), seed)
    width = known.shape[1]

    def voters(group: _Group, count: int, rng: np.random.Generator) -> np.ndarray:
        first = rng.choice(group.shared, (count, 1)).repeat(BATCH, 1)
        return voting[scaled[group.any(first, rng)].var(1, ddof=1).argmin(1)]

    votes = []
    for part in (0, 2):
        voter, factor = _batches(
            rows, part, numbered(known), voters, seed=seed, name="FactorVAE", progress=progress
        )  # fmt: skip
        count = np.bincount(factor * values.shape[1] + voter, minlength=width * values.shape[1])
        votes.append(count.reshape(width, -1))
    named = votes[0].argmax(0)  # (d,)
    test, train = (float(v[named, np.arange(v.shape[1])].sum() / v.sum()) for v in reversed(votes))
    pruned = np.flatnonzero(spread < pruned_below).tolist()
    sizes = Sizes(len(rows.train), 0, len(rows.test))
    return FactorVAE(test, train, votes[0].tolist(), pruned, sizes)


def dci(codes: Array, factors: Array, seed: int = 0, *, categorical: Sequence[int] = (), progress: bool = True) -> DCI:
    """Disentanglement, completeness and informativeness (Eastwood and Williams, ICLR 2018, section 2).

    A random forest of 10 trees predicts each factor from all codes; R is the table of their importances, (d, F).

    - With P_if = R_if / sum_g R_ig, the disentanglement of code i is 1 - H(P_i), in logarithms to the base F. The mean
      over the codes is weighted by sum_f R_if.
    - With Q_if = R_if / sum_j R_jf, the completeness of factor f is 1 - H(Q_f), in logarithms to the base d. The mean
      over the factors is weighted by sum_i R_if, which is 1.
    - Informativeness is the R^2 of the forest's predictions on the test part. The paper has an error instead, the root
      of 1 - R^2.

    The depth of each factor's trees, 4, 8 or 12, is chosen on the validation part.

    Args:
        codes: (N, d), floating point.
        factors: (N, F), whole numbers.
        categorical: the columns of factors without an order, such as a shape. A forest of classifiers predicts them,
            and accuracy takes the place of R^2.
        seed: the seed of the split and the forests.
        progress: show a progress bar.
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
            tested = float(forest.score(values[rows.test], v[rows.test]))
            columns.append((forest.feature_importances_, tested, reached, depth))
    importance = np.stack([column[0] for column in columns], 1)
    per_code, per_factor = 1 - _entropies(importance), 1 - _entropies(importance.T)
    tested = [column[1] for column in columns]
    return DCI(
        disentanglement=float(np.average(per_code, weights=importance.sum(1))),
        completeness=float(np.average(per_factor, weights=importance.sum(0))),
        informativeness=float(np.mean(tested)),
        importance=importance.tolist(),
        per_code=per_code.tolist(),
        per_factor=per_factor.tolist(),
        told=tested,
        validation=[column[2] for column in columns],
        depth=[column[3] for column in columns],
        sizes=rows.sizes(),
    )


class _Group:
    """The samples of a part, grouped by their value of one factor.

    Attributes:
        shared: the row numbers of the samples whose value at least one other sample has.
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
        """For each row, draw one that has the same value, which may be the row itself."""
        v = self._value[rows]
        return self._order[self._start[v] + rng.integers(self._count[v])]

    def another(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """For each row, draw another one that has the same value."""
        v = self._value[rows]
        onwards = self._place[rows] - self._start[v] + 1 + rng.integers(self._count[v] - 1)
        return self._order[self._start[v] + onwards % self._count[v]]


def _batches(
    rows: Rows,
    part: int,
    known: np.ndarray,
    draw: Callable[[_Group, int, np.random.Generator], np.ndarray],
    *,
    seed: int,
    name: str,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw batches of a part that agree in a factor, equally many for each factor.

    Args:
        rows: the samples of all parts.
        part: the number of the part.
        known: the factors (N, F), numbered.
        draw: a function that draws a number of batches from a group, and returns a row for each.
        seed: the seed of the draws.
        name: the metric's name, for the progress bar.
        progress: show a progress bar.

    Returns:
        The rows (n, ...) that `draw` returned, and the factors (n,) in which the batches agree.
    """
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
            for first in range(0, each, 250):  # at most 250 batches at once, which are 250 x 64 x d numbers
                count = min(250, each - first)
                found.append(draw(group, count, rng))
                labels.append(np.full(count, f))
                bar.update(count)
    return np.concatenate(found), np.concatenate(labels)


def _entropies(table: np.ndarray) -> np.ndarray:
    """The entropy of each row of a table (n, m), scaled to sum 1, in logarithms to the base m; a row of zeros has 1."""
    total = table.sum(1, keepdims=True)
    share = np.where(total > 0, table / np.where(total > 0, total, 1), 1 / table.shape[1])
    return -(share * np.log(np.where(share > 0, share, 1))).sum(1) / np.log(table.shape[1])
