"""What tests of the engine allow, in one table: by what is compared, by dtype, by order; each with its reason."""

import torch

# Two ways to the same numbers in plain float64, such as the reference and nested differentiation: the same smooth
# functions, and sums of at most a few hundred terms in another order.
SAME_FORMULA = {"rtol": 1e-11, "atol": 1e-12}

# Central differences with step h err by O(h^2) and by rounding / h (first order) or rounding / h^2 (second order).
FIRST_DIFFERENCES = {"rtol": 1e-7, "atol": 1e-8}
SECOND_DIFFERENCES = {"rtol": 1e-5, "atol": 1e-5}

# An operator beside its twin, value and gradients. float64: sums of a few thousand terms in another order. float32: the
# same, and the engine's own activations, good to about two units in the last place.
OPERATOR = {torch.float64: {"rtol": 1e-10, "atol": 1e-12}, torch.float32: {"rtol": 5e-5, "atol": 2e-5}}

# The native module beside the reference in float64, relative to the largest value of each tensor.
NATIVE = 1e-10

# Triton kernels, relative to the largest value. float64: sums of some thousand terms in another order. float32: twice
# the error of plain PyTorch in the same precision, or this where that happens to be exact.
KERNEL = {torch.float64: 1e-13, torch.float32: 2e-6}
# How many times more in each precision of matrix products. tf32: ten bits of mantissa in every product; tf32x3 gives
# back nearly all of float32's.
KERNEL_PRECISION = {"ieee": 1.0, "tf32x3": 4.0, "tf32": 2000.0}

# The CUDA integrator beside the reference, paths and gradients: steps add up what each product rounds.
INTEGRATOR = {torch.float64: 1e-11, torch.float32: 2e-5}
# What the iterations of the reverse flow leave, native and CUDA: they stop when a point moves by a few roundings.
REVERSE_FLOW = 1e-9
