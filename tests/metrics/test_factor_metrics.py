"""Factor metrics: at codes whose scores are known, beside other packages, and against mistakes that flatter."""

import math

import numpy as np
import pytest
import torch

from fastflow.core.errors import InputError
from fastflow.metrics import beta_vae, dci, factor_vae, mig, modularity, sap
from fastflow.metrics.factor_classifiers import _entropies
from fastflow.metrics.factor_tables import LEAST, split

SIZES = (3, 4, 5, 6)
ALL = (beta_vae, factor_vae, mig, dci, sap, modularity)
LEARNED = (beta_vae, factor_vae, dci)
by_name = pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.__name__)


def drawn(count=2000, seed=7):
    """Independent factors (N, 4), as in a full grid."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(size, size=count) for size in SIZES], 1), rng


def standard(factors):
    """Of mean 0 and variance 1 over the grid."""
    sizes = np.array(SIZES)
    return (factors - (sizes - 1) / 2) / np.sqrt((sizes**2 - 1) / 12)


def turned(seed=5, dim=4):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]


def score(metric, codes, factors, seed=0, **options):
    return metric(codes, factors, seed, **({} if metric in (mig, modularity) else {"progress": False}), **options).score


# Ends of the scale


@pytest.mark.slow
@by_name
def test_a_perfect_code_scores_the_maximum_in_any_order_scale_and_sign(metric):
    factors, _ = drawn(4000)
    codes = (factors * np.array([1.0, -10.0, 0.01, 3.0]))[:, [2, 0, 3, 1]]
    # What frequencies overestimate of information between independent factors is all that lacks.
    assert 0.98 < score(metric, codes, factors) <= 1


@pytest.mark.slow
@by_name
def test_a_rotated_code_scores_low(metric):
    """With much noise, where metrics classify: a rotation without noise can be undone. Modularity hardly minds."""
    factors, rng = drawn(4000)
    noise = 1.5 if metric in (beta_vae, factor_vae) else 0.1
    straight = standard(factors) + noise * rng.normal(size=factors.shape)
    before, after = score(metric, straight, factors), score(metric, straight @ turned(), factors)
    assert after < {modularity: 0.9}.get(metric, 0.75) * before


@pytest.mark.slow
@by_name
def test_codes_of_noise_score_as_by_chance(metric):
    factors, rng = drawn(4000)
    found = score(metric, rng.normal(size=(4000, 6)), factors)
    chance = {beta_vae: 0.25, factor_vae: 0.25}.get(metric, 0.0)
    # Neither asks that a code tell much: importance and information of nothing are shared out by accident.
    assert abs(found - chance) < {dci: 0.2, modularity: 0.75}.get(metric, 0.04)


@pytest.mark.slow
@by_name
def test_a_code_that_hardly_varies_is_not_rewarded(metric):
    factors, rng = drawn()
    noise = rng.normal(size=(2000, 3))
    still = 7 + 1e-9 * rng.normal(size=(2000, 1))
    before, after = score(metric, noise, factors), score(metric, np.concatenate((noise, still), 1), factors)
    assert abs(after - before) < 0.08


@pytest.mark.slow
def test_a_code_said_twice_leaves_no_gap_and_is_incomplete_yet_disentangled():
    factors, rng = drawn()
    codes = np.repeat(factors + 0.05 * rng.normal(size=factors.shape), 2, 1)
    codes += 1e-3 * rng.normal(size=codes.shape)
    assert score(mig, codes, factors) < 0.05
    assert score(sap, codes, factors) < 0.01
    assert score(modularity, codes, factors) > 0.98
    found = dci(codes, factors, progress=False)
    assert found.disentanglement > 0.95
    assert found.completeness < 0.9


def test_a_code_of_two_factors_is_entangled_yet_complete():
    factors, _ = drawn()
    codes = np.stack((factors[:, 0] + 3 * factors[:, 1], factors[:, 2] + 5 * factors[:, 3]), 1).astype(float)
    found = dci(codes, factors, progress=False)
    assert found.completeness > 0.85
    assert found.disentanglement < 0.7
    assert np.shape(found.importance) == (2, 4)
    assert np.sum(found.importance, 0) == pytest.approx([1, 1, 1, 1])
    assert score(modularity, codes, factors) < 0.9


@pytest.mark.slow
@by_name
def test_the_codes_scales_do_not_matter(metric):
    factors, rng = drawn(600)
    codes = standard(factors) @ turned() + 0.5 * rng.normal(size=factors.shape)
    scaled = codes * np.array([0.125, 1.0, 64.0, 4.0])
    assert score(metric, scaled, factors) == pytest.approx(score(metric, codes, factors), abs=1e-9)


# Closed forms


def joint(table, copies):
    """Whole numbers z, v whose frequencies are exactly those of a table of counts."""
    z, v = np.nonzero(np.ones_like(table))
    return (np.repeat(x, copies * table.reshape(-1)) for x in (z, v))


def test_gap_of_a_known_joint_distribution():
    z, v = joint(np.array([[40, 10], [10, 40]]), 2)
    even = np.tile([0, 1], 100)  # independent of v: both are as often beside it
    codes, factors = np.stack((z, even, z), 1)[:, :2].astype(float), v[:, None]
    noise = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    found = mig(codes, factors)
    assert found.information == [[pytest.approx(math.log(2) - noise)], [pytest.approx(0, abs=1e-12)]]
    assert found.entropy == [pytest.approx(math.log(2))]
    assert found.score == pytest.approx(1 - noise / math.log(2))
    # The gap is to the second best code, and not to the second best factor.
    both = mig(codes, np.stack((v, v[::-1]), 1))
    assert both.gap == [pytest.approx(found.score)] * 2


def test_bins_are_of_equal_width():
    """One outlier leaves 19 bins of 20 to nobody, and the rest's values in one bin."""
    factors, _ = drawn(400)
    codes = factors[:, :2].astype(float)
    codes[0] = 1000
    assert score(mig, codes, factors[:, :2]) < 0.02


def test_r_squared_is_that_of_a_line():
    factors, _ = drawn()
    codes = standard(factors)[:, :2] @ np.array([[0.6, 0.0], [0.8, 1.0]])
    found = sap(codes, factors[:, :2])
    expected = np.corrcoef(codes.T, factors[:, :2].T)[:2, 2:] ** 2
    np.testing.assert_allclose(found.table, expected, rtol=1e-9)
    assert found.gap == pytest.approx([expected[0, 0] - expected[1, 0], expected[1, 1] - expected[0, 1]])


def test_a_factor_without_order_is_told_by_thresholds():
    factors, rng = drawn()
    factors[:, 0] = rng.integers(2, size=2000)
    codes = np.stack((factors[:, 0] + 0.1 * rng.normal(size=2000), rng.normal(size=2000)), 1)
    found = sap(codes, factors[:, :1], categorical=[0], progress=False)
    assert found.table[0] == [pytest.approx(1)]
    assert abs(found.table[1][0]) < 0.1
    assert found.sizes.test == 400


def test_modularity_of_known_information():
    z, v = joint(np.array([[40, 10], [10, 40]]), 2)
    even = np.tile([0, 1], 100)
    found = modularity(z[:, None].astype(float), np.stack((v, even), 1))
    assert found.score == pytest.approx(1, abs=1e-9)
    twice = modularity(z[:, None].astype(float), np.stack((v, v), 1))
    assert twice.score == pytest.approx(0)
    three = modularity(z[:, None].astype(float), np.stack((v, v, even), 1))
    assert three.score == pytest.approx(0.5)  # 1 - I^2 / (2 I^2)
    assert modularity(even[:, None].astype(float), np.stack((v, v), 1)).score == 0  # of a code that tells nothing


@pytest.mark.slow
def test_disentanglement_and_completeness_follow_from_the_importances():
    factors, rng = drawn()
    found = dci(peer_codes(factors, rng), factors, progress=False)
    table = np.array(found.importance)

    def order(rows):
        """1 less the entropy of each row in its own base, and the rows' weights, in the plainest words."""
        each = []
        for row in rows:
            shares = [x / sum(row) for x in row]
            each.append(1 + sum(p * math.log(p, len(row)) for p in shares if p))
        return sum(e * sum(row) for e, row in zip(each, rows, strict=True)) / rows.sum()

    assert found.disentanglement == pytest.approx(order(table)) == found.score
    assert found.completeness == pytest.approx(order(table.T))
    assert found.informativeness == pytest.approx(np.mean(found.told))


# Beside other packages, on the same codes or on codes of the same distribution


def peer_codes(f, rng):
    """Codes (N, 6) of factors (N, 4): one factor alone, mixtures, a curve, noise."""
    n = rng.normal(size=(len(f), 6))
    return np.stack(
        [
            f[:, 0] + 0.3 * n[:, 0],
            f[:, 1] + 0.5 * f[:, 2] + 0.2 * n[:, 1],
            f[:, 2] - 0.5 * f[:, 1] + 0.4 * n[:, 2],
            (f[:, 3] - 2.5) ** 2 + 0.5 * n[:, 3],
            f[:, 3] + f[:, 0] + 0.6 * n[:, 4],
            n[:, 5],
        ],
        1,
    )


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        # disent 0.8.0: disent.metrics._mig._compute_mig(codes.T, factors.T)
        (mig, 0.3857206005958178),
        # disent 0.8.0: disent.metrics._sap._compute_sap(codes.T, factors.T, codes.T, factors.T, True)
        (sap, 0.6406196211029615),
        # disentanglement_lib 1.5: modularity_explicitness.modularity of the information of codes in a histogram's bins
        (modularity, 0.8900779892225031),
    ],
)
def test_scores_are_those_of_other_packages(metric, expected):
    factors, rng = drawn(4000)
    assert score(metric, peer_codes(factors, rng), factors) == pytest.approx(expected, abs=1e-9)


def test_entropies_are_those_of_another_package():
    """Disent 0.8.0's _dci._disentanglement and _completeness of the same table of importances."""
    table = np.random.default_rng(3).random((6, 4)) ** 3
    table /= table.sum(0)
    found = [np.average(1 - _entropies(t), weights=t.sum(1)) for t in (table, table.T)]
    assert found == pytest.approx([0.43002586628481815, 0.4194406250621904], abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        # disentanglement_lib 1.5: compute_beta_vae_sklearn, batches of 64, 5000 to learn from and 5000 to measure on
        (beta_vae, 0.507),
        # the same sizes; disentanglement_lib 1.5 gives 0.4698 and disent 0.8.0 0.4412, whose draws differ
        (factor_vae, 0.4555),
    ],
)
def test_accuracies_are_those_of_other_packages_up_to_their_draws(metric, expected):
    """On rotated codes with much noise, two of them nothing else."""
    factors, rng = drawn(20000)
    codes = np.concatenate((standard(factors), np.zeros((20000, 2))), 1) + 1.5 * rng.normal(size=(20000, 6))
    assert score(metric, codes @ turned(dim=6), factors) == pytest.approx(expected, abs=0.035)


# Splits, seeds, selection


@pytest.mark.slow
@by_name
def test_the_same_seed_gives_the_same_and_the_worlds_random_numbers_are_left_alone(metric):
    factors, rng = drawn(600)
    codes = peer_codes(factors, rng) + 3 * rng.normal(size=(600, 6))
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    options = {} if metric in (mig, modularity) else {"progress": False}
    one = metric(codes, factors, 3, **options)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    assert metric(torch.from_numpy(codes), torch.from_numpy(factors), seed=3, **options) == one
    if metric in LEARNED:
        assert metric(codes, factors, 4, **options) != one


def test_parts_share_no_sample():
    rows = split(1000, 0)
    assert [len(part) for part in rows] == [600, 200, 200]
    assert sorted(np.concatenate(rows)) == list(range(1000))
    assert not np.array_equal(rows.test, split(1000, 1).test)


def spoiled(factors, part, seed=0):
    """Factors with the rows of one part exchanged among themselves."""
    factors, rows = factors.copy(), getattr(split(len(factors), seed), part)
    factors[rows] = np.random.default_rng(0).permutation(factors[rows])
    return factors


@pytest.mark.slow
def test_nothing_is_chosen_on_the_test_part():
    """Where the test part alone is spoiled, all is as it was but what is measured on it."""
    factors, rng = drawn(1500)
    codes = peer_codes(factors, rng)
    for metric, kept in (
        (beta_vae, ("inverse_regularization", "validation", "train")),
        (factor_vae, ("votes", "train")),
        (dci, ("depth", "validation", "importance")),
    ):
        whole, other = (metric(codes, f, progress=False) for f in (factors, spoiled(factors, "test")))
        assert [getattr(whole, name) for name in kept] == [getattr(other, name) for name in kept]
        reached = [found.informativeness if metric is dci else found.score for found in (whole, other)]
        assert reached[1] < 0.6 * reached[0]
    thresholds = [sap(codes, f, categorical=[0], progress=False) for f in (factors, spoiled(factors, "test"))]
    assert thresholds[1].table[0][0] < 0.3 < thresholds[0].table[0][0]


@pytest.mark.slow
def test_choices_are_made_on_the_validation_part():
    factors, rng = drawn(1500)
    codes = peer_codes(factors, rng)
    for metric in (beta_vae, dci):
        whole, other = (metric(codes, f, progress=False) for f in (factors, spoiled(factors, "validation")))
        assert np.mean(other.validation) < 0.6 * np.mean(whole.validation)
    # Noise is learned best by the deepest trees and predicted best by the shallowest.
    factors, rng = drawn(1500)
    assert dci(rng.normal(size=(1500, 4)), factors, progress=False).depth == [4, 4, 4, 4]


def test_votes_are_counted_by_factor_and_code():
    factors, rng = drawn()
    codes = np.concatenate((factors[:, ::-1] + 0.1 * rng.normal(size=(2000, 4)), rng.normal(size=(2000, 1)) / 50), 1)
    found = factor_vae(codes, factors, progress=False)
    assert np.array(found.votes).argmax(1).tolist() == [3, 2, 1, 0]
    assert np.sum(found.votes, 1).tolist() == [1250] * 4
    assert found.pruned == []
    pruned = factor_vae(codes, factors, pruned_below=0.05, progress=False)
    assert pruned.pruned == [4]
    assert np.array(pruned.votes)[:, 4].tolist() == [0] * 4


def test_pairs_are_of_two_samples():
    """Two share each value of the first factor, and differ by 2; a pair of a sample with itself wouldn't."""
    rng, rows = np.random.default_rng(4), split(1000, 0)
    couple, side = np.zeros(1000, np.int64), np.zeros(1000)
    for first, part in zip((0, 1000, 2000), rows, strict=True):
        couple[part] = first + np.arange(len(part)) // 2
        side[part] = 2 * (np.arange(len(part)) % 2) - 1
    # Those that agree in the second differ by 1 in the mean, as couples would if half of them were of one sample.
    assert score(beta_vae, side[:, None], np.stack((couple, rng.integers(2, size=1000)), 1)) > 0.99


# What is refused


def changed(values, place, value):
    values = values.copy()
    values[place] = value
    return values


@by_name
def test_what_cannot_be_used_is_named(metric):
    factors, rng = drawn(100)
    codes = rng.normal(size=(100, 4))
    for wrong, message in (
        ((changed(codes, (3, 2), np.nan), factors), "codes must be finite, got NaN or infinity in column 2"),
        ((changed(codes, (3, 1), np.inf), factors), "codes must be finite, got NaN or infinity in column 1"),
        ((changed(codes, (slice(None), 3), 0.1), factors), "codes must vary, column 3 is constant"),
        ((codes, changed(factors, (slice(None), 1), 5)), "factors must vary, column 1 is constant"),
        ((codes[:99], factors), "a row for each sample, got 99 and 100 rows"),
        ((codes.T, factors), "a row for each sample, got 4 and 100 rows"),
        ((codes[: LEAST - 1], factors[: LEAST - 1]), "at least 50 samples, got 49"),
        (
            (codes[:, 0], factors),
            r"codes must be a tensor or array of shape \(N, columns\), float, got float64 \(100,\)",
        ),
        ((codes, factors / 2), r"factors must be a tensor or array of shape .*, integer, got float64 \(100, 4\)"),
        ((codes.tolist(), factors), "codes must be a tensor or array .*, got list"),
        ((codes[:, :0], factors), r"codes must have rows and columns, got shape \(100, 0\)"),
    ):
        with pytest.raises(InputError, match=message):
            metric(*wrong)
    with pytest.raises(InputError, match="seed must be a whole number"):
        metric(codes, factors, -1)
    if metric not in (mig, sap):
        with pytest.raises(InputError, match="at least 2 columns of factors, got 1"):
            metric(codes, factors[:, :1])


def test_options_that_cannot_be_used_are_named():
    factors, rng = drawn(100)
    codes = rng.normal(size=(100, 4))
    for metric in (sap, dci):
        for categorical in ([4], [-1], "shape", [0.0]):
            with pytest.raises(InputError, match=r"categorical must be columns of factors in 0\.\.3"):
                metric(codes, factors, categorical=categorical)
    with pytest.raises(InputError, match="at least 2 columns of codes, got 1"):
        dci(codes[:, :1], factors)
    with pytest.raises(InputError, match="pruned_below must leave a code that can vote"):
        factor_vae(codes, factors, pruned_below=100)
    alone = np.stack((np.arange(100), factors[:, 0]), 1)
    for metric in (beta_vae, factor_vae):
        with pytest.raises(InputError, match="no two of 60 samples agree in factor 0: give more, or leave it out"):
            metric(codes, alone, progress=False)


@pytest.mark.slow
def test_factors_may_have_any_values():
    factors, rng = drawn(500)
    codes = peer_codes(factors, rng)
    for metric in (mig, modularity, beta_vae, factor_vae):
        assert score(metric, codes, 1000 * factors - 7) == score(metric, codes, factors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_codes_may_be_tensors_of_any_float(dtype):
    factors, rng = drawn(500)
    codes = torch.tensor(peer_codes(factors, rng)).to(dtype)
    assert mig(codes.requires_grad_(), torch.tensor(factors)) == mig(codes.detach().double().numpy(), factors)
    with pytest.raises(InputError, match="codes must be a tensor or array"):
        mig(codes.detach().to_sparse(), torch.tensor(factors))


@pytest.mark.slow
def test_a_code_or_factor_that_varies_in_the_test_part_alone():
    factors, rng = drawn(300)
    codes, rows = rng.normal(size=(300, 4)), split(300, 0)
    rare = changed(np.zeros(300), rows.test[:3], 1)
    for metric in ALL:
        assert 0 <= score(metric, np.column_stack((codes, rare)), factors) <= 1
    factors[:, 1] = rare
    for metric in (sap, dci):
        with pytest.raises(InputError, match="column 1 is constant in the 180 samples of the train part: give more"):
            metric(codes, factors, categorical=[1], progress=False)


def test_balanced_accuracy_is_scikit_learns():
    """Of a factor with rare values, each of which counts as much as the others."""
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.svm import LinearSVC

    rng = np.random.default_rng(2)
    kind = rng.choice(3, 900, p=(0.8, 0.15, 0.05))
    code = kind + 0.4 * rng.normal(size=900)
    rows, z = split(900, 0), ((code - code.mean()) / code.std())[:, None]
    line = LinearSVC(C=0.01, class_weight="balanced", dual=False).fit(z[rows.train], kind[rows.train])
    expected = balanced_accuracy_score(kind[rows.test], line.predict(z[rows.test]), adjusted=True)
    assert expected > 0.1
    assert score(sap, code[:, None], kind[:, None], categorical=[0]) == pytest.approx(expected)
