"""The bundled generator: its starts are encoded held-out digits."""

import pytest
import torch

from fastflow.core.errors import InputError


def test_starts_are_encoded_held_out_digits_of_different_classes(digits):
    starts = digits.starts(10, seed=3)
    encoded = digits.encode(digits.held_out_images)
    # Encoded among others, a digit may differ in its last bits.
    places = [(encoded - start).abs().amax(1).argmin().item() for start in starts]
    assert sorted(digits.held_out_labels[places].tolist()) == list(range(10))
    # The VAE draws the digit that it was started from.
    errors = (digits.decode(starts) - digits.held_out_images[places]).square().mean((1, 2, 3))
    strangers = (digits.decode(starts) - digits.held_out_images[places].roll(1, 0)).square().mean((1, 2, 3))
    assert errors.mean() < 0.3 * strangers.mean()


def test_starts_repeat_by_seed_and_end_with_the_digits(digits):
    assert torch.equal(digits.starts(5, seed=1), digits.starts(5, seed=1))
    assert not torch.equal(digits.starts(5, seed=1), digits.starts(5, seed=2))
    assert len(digits.starts(359).unique(dim=0)) > 350
    with pytest.raises(InputError, match="count must be at most the 359 held-out digits, got 360"):
        digits.starts(360)


def test_encode_checks_the_images_shape(digits):
    with pytest.raises(InputError, match=r"must have shape \(B, 1, 8, 8\), got \(2, 64\)"):
        digits.encode(torch.zeros(2, 64))
