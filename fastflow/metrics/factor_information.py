"""Factor metrics that compare each code with each factor: MIG, SAP and modularity.

All take floating-point codes (N, d) and whole-number factors (N, F), as tensors or arrays. They raise InputError where
codes or factors have NaN, a constant column or too few rows, or where their lengths differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from fastflow.core.plugins import imported
from fastflow.metrics.factor_tables import (
    Array,
    Rows,
    Sizes,
    binned,
    check_categorical,
    check_parts,
    checked,
    entropy,
    gaps,
    mutual_information,
    numbered,
    split,
)

BINS = 20
"""The number of bins into which codes are cut, as in the literature."""


@dataclass(frozen=True)
class MIG:
    """How much more information about a factor one code has than the next best."""

    score: float
    """The mean gap over the factors, in [0, 1]."""
    gap: list[float]
    """(F,): the gap of each factor."""
    information: list[list[float]]
    """(d, F): the mutual information I(z_i; v_f) in nats."""
    entropy: list[float]
    """(F,): the entropy H(v_f) in nats."""
    samples: int


@dataclass(frozen=True)
class SAP:
    """How much better one code predicts a factor than the next best."""

    score: float
    """The mean gap over the factors, in [0, 1]."""
    gap: list[float]
    """(F,): the gap of each factor."""
    table: list[list[float]]
    """(d, F): R^2, or for a factor without an order the balanced accuracy on the test part."""
    sizes: Sizes
    """The parts for factors without an order; the R^2 of factors with an order is taken over all samples."""


@dataclass(frozen=True)
class Modularity:
    """How nearly each code has information about one factor only."""

    score: float
    """The mean over the codes, in [0, 1]."""
    modularity: list[float]
    """(d,): the modularity of each code."""
    information: list[list[float]]
    """(d, F): the mutual information I(z_i; v_f) in nats."""
    samples: int


def mig(codes: Array, factors: Array, seed: int = 0) -> MIG:
    """Mutual information gap (Chen et al., NeurIPS 2018, section 4.1).

    1/F sum_f [I(z_j; v_f) - max_(i != j) I(z_i; v_f)] / H(v_f), where j is the code with the most information about
    factor f. If there is one code, its gap is to 0. Codes are cut into 20 bins of equal width, and everything is
    estimated from frequencies. With n values of a factor and N samples, this overestimates the information by about
    19 (n - 1) / (2 N). A factor with more than 20 values can't reach 1.

    Args:
        codes: (N, d), floating point.
        factors: (N, F), whole numbers.
        seed: not used, as nothing is drawn; it is there because all factor metrics are called in the same way.
    """
    values, known = checked(codes, factors, seed)
    known = numbered(known)
    information, total = mutual_information(binned(values, BINS), known), entropy(known)
    gap = gaps(information) / total
    return MIG(float(gap.mean()), gap.tolist(), information.tolist(), total.tolist(), len(values))


def sap(codes: Array, factors: Array, seed: int = 0, *, categorical: Sequence[int] = (), progress: bool = True) -> SAP:
    """Separated attribute predictability (Kumar et al., ICLR 2018, section 3).

    1/F sum_f [S_jf - max_(i != j) S_if], where j is the code with the highest S for factor f. If there is one code, its
    gap is to 0. For a factor whose values have an order, S_if = Cov(z_i, v_f)^2 / (Var z_i Var v_f), the R^2 of a line.
    For a factor without an order, it is the balanced accuracy of a linear support vector machine (C = 0.01) on the one
    code, trained on 60% of the samples and measured on the 20% of the test part, scaled so that guessing gives 0 and
    perfection gives 1.

    Args:
        codes: (N, d), floating point.
        factors: (N, F), whole numbers.
        categorical: the columns of factors without an order, such as a shape.
        seed: the seed of the split.
        progress: show a progress bar.
    """
    values, known = checked(codes, factors, seed)
    unordered = check_categorical(categorical, known)
    rows = split(len(values), seed)
    check_parts(known, sorted(unordered), rows)
    z, v = ((x - x.mean(0)) / x.std(0) for x in (values, known))
    table = (z.T @ v / len(z)) ** 2
    for column in tqdm(sorted(unordered), desc="SAP", unit="factor", leave=False, disable=not progress):
        table[:, column] = [_balanced_accuracy(code[:, None], known[:, column], rows) for code in z.T]
    gap = gaps(table)
    return SAP(float(gap.mean()), gap.tolist(), table.tolist(), rows.sizes())


def modularity(codes: Array, factors: Array, seed: int = 0) -> Modularity:
    """Modularity (Ridgeway and Mozer, NeurIPS 2018).

    1/d sum_i [1 - sum_(f != g) I(z_i; v_f)^2 / ((F - 1) I(z_i; v_g)^2)], where g is the factor about which code i has
    the most information. A code without information counts as 0. Codes are cut into 20 bins, as in `mig`. Codes with
    little information, and several codes with the same information, may still score high: read it together with `mig`.

    Args:
        codes: (N, d), floating point.
        factors: (N, F), whole numbers.
        seed: not used, as nothing is drawn; it is there because all factor metrics are called in the same way.
    """
    values, known = checked(codes, factors, seed, least_factors=2)
    information = mutual_information(binned(values, BINS), numbered(known))
    squares = information**2
    most = squares.max(1)
    others = (squares.sum(1) - most) / (known.shape[1] - 1)
    each = np.where(most > 0, 1 - others / np.where(most > 0, most, 1), 0.0)
    return Modularity(float(each.mean()), each.tolist(), information.tolist(), len(values))


def _balanced_accuracy(z: np.ndarray, v: np.ndarray, rows: Rows) -> float:
    """How well codes (N, 1) predict values (N,): 0 by guessing, 1 without error."""
    svm = imported("sklearn.svm", "metrics", "SAP")
    # The primal solver draws no random numbers.
    line = svm.LinearSVC(C=0.01, class_weight="balanced", dual=False).fit(z[rows.train], v[rows.train])
    named, truth = line.predict(z[rows.test]), v[rows.test]
    seen = np.unique(truth)
    accuracy = float(np.mean([(named[truth == value] == value).mean() for value in seen]))
    return max(0.0, (accuracy - 1 / len(seen)) / (1 - 1 / len(seen)))
