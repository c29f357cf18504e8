"""Walks through grids of factors, and the splits that share no image."""

import math

import numpy as np
import pytest
import torch
from support.sprites import SIZES, SMALL, written

from fastflow import InputError, datasets
from fastflow.datasets.dsprites import (
    FACTORS,
    SpritesFile,
)
from fastflow.datasets.factors import held_apart


@pytest.mark.slow
def test_no_walk_of_the_test_split_meets_one_of_the_train_split():
    train, test = (datasets.load("dsprites", split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (70_518, 11_400)
    assert "the test split walks from 11400 of 737280 images, drawn with seed 0" in test.note
    strides = [math.prod(SIZES[i + 1 :]) for i in range(6)]
    axes = [list(FACTORS).index(name) for name in train.transformations]
    passed = []
    for data in (train, test):
        factors = data.factors_of(torch.arange(len(data)))
        start = (factors * torch.tensor(strides)).sum(1)
        seen = torch.zeros(math.prod(SIZES), dtype=torch.bool)
        for i in axes:
            line = start[:, None] + (torch.arange(SIZES[i]) - factors[:, i, None]) * strides[i]
            seen[line.flatten()] = True
        passed.append(seen)
    assert not bool((passed[0] & passed[1]).any())
    assert bool((passed[0] | passed[1]).all())  # and none of the grid is lost
    # The last orientation is the first again, and looks like it: a walk of the other split mustn't hold its twin.
    twins = torch.arange(math.prod(SIZES)).view(SIZES)[:, :, :, [0, -1]].movedim(3, 0).flatten(1)
    for seen, other in (passed, passed[::-1]):
        assert not bool((seen[twins[0]] & other[twins[1]]).any())


@pytest.mark.parametrize(
    ("sizes", "axes"),
    [
        ((3, 4, 5), (1,)),
        ((3, 4, 5), (0, 2)),
        ((4, 5, 3, 6), (0, 1, 3)),
        ((3, 3, 3, 3, 3, 3, 3), (0, 1, 2, 4, 5, 6)),
        ((4, 9, 2), (0, 1, 2)),
    ],
)
def test_groups_are_held_apart_whatever_there_are_walks_along(sizes, axes):
    starts, groups = held_apart(sizes, axes)
    grid = torch.arange(math.prod(sizes)).view(sizes)
    owner = torch.full((math.prod(sizes),), -1)
    for start, group in zip(starts.tolist(), groups.tolist(), strict=True):
        at = np.unravel_index(start, sizes)
        for i in axes:
            line = grid[(*at[:i], slice(None), *at[i + 1 :])]
            assert bool(((owner[line] == -1) | (owner[line] == group)).all())
            owner[line] = group
    assert len(groups.unique()) > 1


def test_what_leaves_nothing_to_hold_out_is_refused(tmp_path):
    reader = SpritesFile(written(tmp_path), SMALL)
    reader.factors = {"shape": 90, "position-y": 4}
    with pytest.raises(InputError, match="can't hold out walks along shape and position-y: they cross all of its"):
        datasets.FactorSequences(reader, "train", ("shape", "position-y"))


@pytest.mark.parametrize("name", ["color", "size"])
def test_what_cannot_be_walked_is_refused(name):
    with pytest.raises(InputError, match=f"dsprites has no factor '{name}' to walk along; it has .*shape.*position-y"):
        datasets.load("dsprites", transformations=(name,))


def test_several_factors_move_at_once():
    data = datasets.load("dsprites", split="test", transformations=("position-x", "position-y", "scale"))
    rows = torch.arange(3)
    which = torch.tensor([[0, 1], [1, 0], [2, 1]])
    place = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.5]]).expand(3, -1, -1)
    found = data.frames(rows, which, place)
    strides = {name: math.prod(list(FACTORS.values())[i + 1 :]) for i, name in enumerate(FACTORS)}
    for row, pair in enumerate(which.tolist()):
        for frame, (one, two) in enumerate(place[0].tolist()):
            values = dict(zip(FACTORS, data.factors_of(rows[[row]])[0].tolist(), strict=True))
            for k, share in zip(pair, (one, two), strict=True):
                name = data.transformations[k]
                values[name] = int(share * (FACTORS[name] - 1) + 0.5)
            at = torch.tensor([sum(strides[name] * value for name, value in values.items())])
            assert torch.equal(found[row, frame], data.source.images(at)[0])
    with pytest.raises(InputError, match="must name each factor once"):
        data.frames(rows, torch.tensor([[0, 0]] * 3), place)
