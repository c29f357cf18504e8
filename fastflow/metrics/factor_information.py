"""Factor metrics that read a table of codes against factors: MIG, SAP and modularity.

All take codes (N, d), float, and factors (N, F), integer, as tensors or arrays, and raise InputError where either has
NaN, a constant column or too few rows, or their lengths differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from fastflow.core.plugins import imported
from fastflow.metrics.factor_tables import (
    Array,
    Sizes,
    binned,
    check_categorical,
    check_parts,
    checked,
    entropy,
    gaps,
    mutual_information,
    ranked,
    split,
)

BINS = 20
"""Of codes, as in the literature."""


@dataclass(frozen=True)
class MIG:
    """How much more one code tells of a factor than the next best."""

    score: float
    """The mean gap over the factors, in [0, 1]."""
    gap: list[float]
    """(F,): each factor's."""
    information: list[list[float]]
    """(d, F): I(z_i; v_f) in nats."""
    entropy: list[float]
    """(F,): H(v_f) in nats."""
    samples: int


@dataclass(frozen=True)
class SAP:
    """How much better one code predicts a factor than the next best."""

    score: float
    """The mean gap over the factors, in [0, 1]."""
    gap: list[float]
    """(F,): each factor's."""
    table: list[list[float]]
    """(d, F): R^2, or the balanced accuracy on the test part for a factor without order."""
    sizes: Sizes
    """Of a factor without order; R^2 of a factor with one is taken over all samples."""


@dataclass(frozen=True)
class Modularity:
    """How nearly each code tells of one factor alone."""

    score: float
    """The mean over the codes, in [0, 1]."""
    modularity: list[float]
    """(d,): each code's."""
    information: list[list[float]]
    """(d, F): I(z_i; v_f) in nats."""
    samples: int


def mig(codes: Array, factors: Array, seed: int = 0) -> MIG:
    """Mutual information gap (Chen et al., NeurIPS 2018, section 4.1).

    1/F sum_f [I(z_j; v_f) - max_(i != j) I(z_i; v_f)] / H(v_f), j being the code that tells most of factor f; a single
    code is set against 0. Codes are cut into 20 bins of equal width, and all is estimated by frequencies: of n values
    of a factor and N samples this overestimates information by about 19 (n - 1) / (2 N), and a factor of more than 20
    values can't reach 1.

    Args:
        seed: nothing is drawn; all factor metrics are called alike.
    """
    values, known = checked(codes, factors, seed)
    known = ranked(known)
    information, total = mutual_information(binned(values, BINS), known), entropy(known)
    gap = gaps(information) / total
    return MIG(float(gap.mean()), gap.tolist(), information.tolist(), total.tolist(), len(values))


def sap(codes: Array, factors: Array, seed: int = 0, *, categorical: Sequence[int] = (), progress: bool = True) -> SAP:
    """Separated attribute predictability (Kumar et al., ICLR 2018, section 3).

    1/F sum_f [S_jf - max_(i != j) S_if], j being the code with the highest S of factor f; a single code is set against
    0. S_if = Cov(z_i, v_f)^2 / (Var z_i Var v_f), the R^2 of a line, for a factor whose values have an order. For
    another it is the balanced accuracy of a linear support vector machine (C = 0.01) on the one code, learned from 60%
    of the samples and measured on the 20% of the test part, on the scale where guessing is 0 and 1 is perfect.

    Args:
        categorical: the columns of factors without order, such as a shape.
        seed: of the split.
    """
    values, known = checked(codes, factors, seed)
    unordered = check_categorical(categorical, known)
    rows = split(len(values), seed)
    check_parts(known, sorted(unordered), rows)
    z, v = ((x - x.mean(0)) / x.std(0) for x in (values, known))
    table = (z.T @ v / len(z)) ** 2
    for column in tqdm(sorted(unordered), desc="SAP", unit="factor", leave=False, disable=not progress):
        table[:, column] = [_told(z[:, [i]], known[:, column], rows.train, rows.test) for i in range(z.shape[1])]
    gap = gaps(table)
    return SAP(float(gap.mean()), gap.tolist(), table.tolist(), rows.sizes())


def modularity(codes: Array, factors: Array, seed: int = 0) -> Modularity:
    """Modularity (Ridgeway and Mozer, NeurIPS 2018).

    1/d sum_i [1 - sum_(f != g) I(z_i; v_f)^2 / ((F - 1) I(z_i; v_g)^2)], g being the factor that code i tells most of;
    0 for a code that tells nothing. Codes are cut into 20 bins as for `mig`. A code isn't asked to tell much, and
    several may tell the same: read it beside `mig`.

    Args:
        seed: nothing is drawn; all factor metrics are called alike.
    """
    values, known = checked(codes, factors, seed, least_factors=2)
    information = mutual_information(binned(values, BINS), ranked(known))
    squares = information**2
    most = squares.max(1)
    others = (squares.sum(1) - most) / (known.shape[1] - 1)
    each = np.where(most > 0, 1 - others / np.where(most > 0, most, 1), 0.0)
    return Modularity(float(each.mean()), each.tolist(), information.tolist(), len(values))


def _told(z: np.ndarray, v: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    """How well codes (N, 1) tell values (N,), from 0 by guessing to 1."""
    svm = imported("sklearn.svm", "metrics", "SAP")
    # Solved in the primal, nothing is drawn.
    line = svm.LinearSVC(C=0.01, class_weight="balanced", dual=False).fit(z[train], v[train])
    named, seen = line.predict(z[test]), np.unique(v[test])
    accuracy = float(np.mean([(named[v[test] == value] == value).mean() for value in seen]))
    return max(0.0, (accuracy - 1 / len(seen)) / (1 - 1 / len(seen)))
