"""The operators: each is registered with torch, with its fake, its backward and its vmap rule.

What happens between `ff.pde_loss(bank, z, t, index)` and a kernel; the other public functions go the same way:

1. `bank.samples` checks z, t and index, once, and gives `inputs.Samples`: latents, times and potentials in one form.
2. `bank.pieces` cuts them where a time for each sample would take too much memory; `chunking` goes through the pieces.
3. `bank.networks` evaluates the biases, with two time derivatives, at the samples' times. That gives an `MLP` without
   time, and each sample's network and row of biases in it. Autograd differentiates this step, it is plain PyTorch.
4. `operators.residual_loss` asks `backends.selection` who computes on this device.
5. Without a gradient it calls `torch.ops.fastflow.residual_loss`. With one an autograd function calls
   `residual_loss_and_gradient`, which gives the loss and its gradients in one pass, and the backward scales them.
6. The operator makes an `MLP` of its tensors and `Settings` again, and calls the function of its own name in the
   backend's module, which `backends.table` loads.
7. That function (in `backends.native` for the CPU) allocates results and has `fastflow._native` fill them.
8. A second derivative goes through `backends.reference`, the same mathematics in plain PyTorch.
"""
