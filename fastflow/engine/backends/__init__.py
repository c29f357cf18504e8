"""Who computes the operators: plain PyTorch as the reference, the native module, Triton kernels, CUDA."""
