"""Guidance by where paths lead: attributes by name, and what is wrong with a path."""

import pytest
import torch
from support.runs import sigmoid_generator

from fastflow import generators
from fastflow.core.errors import InputError
from fastflow.latents.attributes.appearance import appearance_names
from fastflow.latents.attributes.strokes import STROKE_ATTRIBUTES, stroke_attributes
from fastflow.latents.guidance import Guidance, guide_by, keep_by

WEIGHT = torch.randn(5, 48, generator=torch.Generator().manual_seed(1)) / 100


def linear_generator(**options):
    return generators.from_callable(lambda z: 0.5 + (z @ WEIGHT.to(z)).unflatten(1, (3, 4, 4)), 5, **options)


def red(images):
    return images[:, 0].mean((1, 2))


def channels(images):
    return images.mean((2, 3))


def corner(images):
    return images[:, :, 0, 0]


def test_sets_members_and_functions_are_found_by_name():
    generator = linear_generator()
    images = generator.decode(generator.sample(2))
    guide = guide_by(["sharpness", red, "appearance"][:2], generator)
    assert guide.names == ("sharpness", "red")
    names = appearance_names(3)
    assert guide.columns == (names.index("sharpness"), len(names))  # the rest of the set is there, to be held
    assert guide(images).shape == (2, len(names) + 1)
    assert torch.equal(guide(images)[:, -1], red(images))
    assert guide_by(["appearance"], generator).names == names
    assert guide_by([channels], generator).names == ("channels 0", "channels 1", "channels 2")
    assert guide_by([channels], generator).first(2).columns == (0, 1)
    drawn = generators.load("digits-vae")
    guide = guide_by(["slant", "thickness"], drawn)
    assert guide.names == ("slant", "thickness")
    assert guide.columns == (STROKE_ATTRIBUTES.index("slant"), STROKE_ATTRIBUTES.index("thickness"))
    images = drawn.scaled(drawn.decode(drawn.sample(3)))
    torch.testing.assert_close(guide(images), stroke_attributes(images))


def test_a_file_names_functions(tmp_path):
    (tmp_path / "own.py").write_text("def light(images):\n    return images.mean((1, 2, 3))\n")
    file = f"{tmp_path / 'own.py'}:light"
    generator = linear_generator()
    guide = guide_by([file], generator)
    images = generator.decode(generator.sample(2))
    assert guide.names == ("light",)
    torch.testing.assert_close(guide(images)[:, 0], images.mean((1, 2, 3)))
    (features,) = keep_by([file])
    torch.testing.assert_close(features(images), images.mean((1, 2, 3)))


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        ("strokes", "guide must be a list of names or functions, got 'strokes'"),
        ([], r"guide must be a list of names or functions, got \[\]"),
        (["thick"], "guide must name appearance, strokes, one of brightness, .*, thickness, .*; got 'thick'"),
        ([3], "guide must list names or functions, got 3 in it"),
        (["slant", "strokes"], "guide names 'slant' twice: name each attribute once"),
        ([red, red], "guide names 'red' twice"),
        ([lambda images: images.mean()], r"the predictor must give values \(3,\) or \(3, P\) for 3 images, got \(\)"),
    ],
)
def test_what_cannot_guide_is_refused(guide, message):
    with pytest.raises(InputError, match=message):
        guide_by(guide, linear_generator())


@pytest.mark.parametrize(
    ("guide", "keep", "message"),
    [
        ([lambda images: 0 * red(images)], [], "attribute 'attribute' is the same for 512 images"),
        ([red], [lambda images: 0 * red(images)], "what to keep must differ between images"),
        ([red], [lambda images: 3], r"features \(64, ...\) for 64 images, got int"),
        ([red], [lambda images: images[:2]], r"features \(64, ...\) for 64 images, got \(2, 3, 4, 4\)"),
        ([red], [lambda images: 1 / 0], "the function of features to keep failed: ZeroDivisionError"),
    ],
)
def test_what_has_no_scale_is_refused(guide, keep, message):
    generator = linear_generator()
    with pytest.raises(InputError, match=message):
        Guidance(generator, guide_by(guide, generator), keep_by(keep))


def test_a_path_that_does_what_is_asked_has_nothing_wrong():
    # On a linear generator the direction that changes one channel alone is known.
    generator = linear_generator()
    guidance = Guidance(generator, guide_by([channels], generator), [corner], rate=0.5)
    slopes = torch.stack([WEIGHT.unflatten(1, (3, 4, 4))[:, c].mean((1, 2)) for c in range(3)])  # (3, D)
    spread = guidance.spread
    torch.testing.assert_close(spread, slopes.norm(dim=1), rtol=0.1, atol=0)  # the latents are standard normal
    steps, potential = torch.tensor([1, 4, 2]), torch.tensor([0, 1, 2])
    asked = 0.5 * steps * spread[potential]
    wanted = torch.zeros(3, 3)
    wanted[torch.arange(3), potential] = asked
    z0 = generator.sample(3, 5)
    z = z0 + wanted @ torch.linalg.pinv(slopes).T
    before, after = generator.decode(z0), generator.decode(z)
    terms = guidance.terms(before, after, potential, steps)
    assert terms.guidance.abs().max() < 1e-4
    assert terms.hold.max() < 1e-3
    change = ((corner(after) - corner(before)) ** 2).sum(1)
    images = generator.decode(generator.sample(512, 0))
    pairs = (corner(images)[:, None] - corner(images)).square().sum(-1).sum() / (512 * 511)
    torch.testing.assert_close(guidance.bounds(before, after, z).keep, change / pairs)
    # One step too few, and the wrong channel.
    terms = guidance.terms(before, after, potential, steps + 1)
    lacking = 1 / (steps + 1).float()
    torch.testing.assert_close(terms.guidance, lacking**2 + lacking, rtol=1e-3, atol=1e-4)
    terms = guidance.terms(before, after, (potential + 1) % 3, steps)
    torch.testing.assert_close(terms.guidance, torch.ones(3), rtol=1e-3, atol=0)
    torch.testing.assert_close(terms.hold, torch.ones(3), rtol=1e-3, atol=0)


def test_lowering_an_attribute_is_judged_like_raising_it():
    generator = linear_generator()
    guide = guide_by([red], generator)
    up, down = Guidance(generator, guide, rate=0.5), Guidance(generator, guide, rate=-0.5)
    z = generator.sample(4, 2)
    before, after = generator.decode(z), generator.decode(z.roll(1, 0))
    potential, steps = torch.zeros(4, dtype=torch.long), torch.tensor([1, 2, 3, 4])
    raised, lowered = (one.terms(*images, potential, steps) for one, images in (
        (up, (before, after)), (down, (after, before)),
    ))  # fmt: skip
    torch.testing.assert_close(raised.guidance, lowered.guidance)
    torch.testing.assert_close(raised.hold, lowered.hold)
    # The wrong way is worse than none, and both are as bad for a small step as for a large one.
    wrong = down.terms(before, after, potential, steps).hold
    torch.testing.assert_close(wrong + raised.hold, torch.full((4,), 2.0))
    assert bool((up.terms(before, before, potential, steps).hold == 1).all())


def test_the_shell_is_where_the_generators_latents_are():
    generator = sigmoid_generator()
    guidance = Guidance(generator, guide_by([lambda images: images.mean((1, 2, 3))], generator))
    z = torch.cat((generator.sample(400, 9), 4 * generator.sample(100, 10)))
    images = generator.decode(z)
    shell = guidance.bounds(images, images, z).shell
    assert (shell[:400] > 0).float().mean() < 0.03
    spread = generator.spread
    far = (z[400:] - spread.mean.float()).norm(dim=1)
    expected = (2 * (far - spread.farthest) / (spread.farthest - spread.nearest)).clamp_min(0).square()
    torch.testing.assert_close(shell[400:], expected)
    inside = spread.mean.float()[None].repeat(2, 1)
    images = generator.decode(inside)
    assert (guidance.bounds(images, images, inside).shell > 0).all()
    assert (shell[400:] > 0).float().mean() > 0.8
