"""Triton kernels, imported as fastflow.kernels; they import nothing of fastflow."""
