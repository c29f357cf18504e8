"""A physics-informed network learns a wave in several dimensions; its derivatives come from `ff.mlp_jet`.

    python examples/pinn_wave.py [--dims D] [--steps N] [--seed N]

The wave equation u_tt = lap u on the unit cube for 0 < t < 1, with the initial state, the initial velocity and the
boundary values of a standing wave, u(x, t) = cos(pi t) (sin(pi x_1) + ... + sin(pi x_D)) / sqrt(D). Inside the cube the
network learns from the equation alone; the error is measured there. First, the equation's loss and its gradients are
computed and timed in two ways: by the engine and by nested autograd.
"""

import math
import time

import torch
import tyro
from torch import Tensor, nn

import fastflow as ff


def exact(x: Tensor, t: Tensor) -> Tensor:
    """The standing wave (B,) at x (B, D) and t (B,)."""
    return torch.cos(torch.pi * t) * torch.sin(torch.pi * x).sum(1) / math.sqrt(x.shape[1])


def engine_residual(net: nn.Sequential, x: Tensor, t: Tensor) -> Tensor:
    """u_tt - lap u (B,), by one call of the engine."""
    jet = ff.mlp_jet(net, x, t)  # t is the network's last input; the Laplacian is over x
    return jet.u_tt - jet.laplacian


def nested_residual(net: nn.Sequential, x: Tensor, t: Tensor) -> Tensor:
    """The same residual (B,) by nested autograd: one backward pass for each second derivative."""
    inputs = torch.cat((x, t[:, None]), 1).requires_grad_()
    (gradient,) = torch.autograd.grad(net(inputs).sum(), inputs, create_graph=True)
    seconds = [
        torch.autograd.grad(gradient[:, i].sum(), inputs, create_graph=True)[0][:, i] for i in range(inputs.shape[1])
    ]
    return seconds[-1] - torch.stack(seconds[:-1]).sum(0)


def loss_of(net: nn.Sequential, x: Tensor, t: Tensor) -> Tensor:
    """The loss at inner points x (B, D), t (B,), and at the same points moved to the start and to the walls."""
    start, wall, row = torch.zeros_like(t), x.clone(), torch.arange(len(x))
    wall[row, row % x.shape[1]] = (row // x.shape[1] % 2).to(x)  # all 2 D walls in turn
    jet = ff.mlp_jet(net, x, start, laplacian="none", with_u_tt=False)
    state = (jet.u - exact(x, start)).square().mean() + jet.u_t.square().mean()  # it begins at rest
    boundary = (net(torch.cat((wall, t[:, None]), 1))[:, 0] - exact(wall, t)).square().mean()
    return engine_residual(net, x, t).square().mean() + 100 * (state + boundary)


def compare(net: nn.Sequential, x: Tensor, t: Tensor, rounds: int = 10) -> None:
    """Print what the equation's loss and its gradients cost in both ways, and how far the gradients differ."""
    ways = {"nested autograd": nested_residual, "ff.mlp_jet": engine_residual}
    gradients, best = {}, dict.fromkeys(ways, math.inf)
    for _ in range(rounds):
        for name, residual in ways.items():
            begin = time.process_time()
            found = torch.autograd.grad(residual(net, x, t).square().mean(), list(net.parameters())[:-1])
            best[name] = min(best[name], time.process_time() - begin)
            gradients[name] = torch.cat([gradient.flatten() for gradient in found])
    nested, engine = gradients.values()
    print(f"the equation's loss and its gradients, CPU time of one call, the smallest of {rounds}:")
    for name, cost in best.items():
        print(f"  {name:<16} {1000 * cost:7.1f} ms")
    print(f"  {best['nested autograd'] / best['ff.mlp_jet']:.1f} times faster, ", end="")
    print(f"gradients {float((nested - engine).norm() / nested.norm()):.0e} of their length apart")


def main(dims: int = 5, steps: int = 2500, points: int = 500, seed: int = 0) -> float:
    """Learn the wave and return its relative error."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(dims + 1, 64), ff.Sin(), nn.Linear(64, 64), ff.Sin(), nn.Linear(64, 1))
    x, t = torch.rand(4096, dims), torch.rand(4096)
    compare(net, x[:points], t[:points])

    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps + 1):
        if step % max(1, steps // 8) == 0 or step == steps:
            with torch.no_grad():
                u = net(torch.cat((x, t[:, None]), 1))[:, 0]
            error = float((u - exact(x, t)).norm() / exact(x, t).norm())
            print(f"step {step:5d}  relative error {error:.4f}", flush=True)
        if step < steps:
            optimizer.zero_grad()
            loss_of(net, torch.rand(points, dims), torch.rand(points)).backward()
            optimizer.step()
            schedule.step()
    return error


if __name__ == "__main__":
    tyro.cli(main)
