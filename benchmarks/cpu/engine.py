"""This package's own ways: the operators on stacked networks, and what users call."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

import fastflow as ff
from benchmarks.problem import JET_OUTPUTS, TIME, Prepared, Problem
from fastflow.engine.operators.jet import jet
from fastflow.engine.operators.residual_loss import residual_loss

WAVE = ff.pde.Wave()


def operator_jet(problem: Problem) -> Prepared:
    """The operator, asked for what the case asks for: all but u_tt."""
    networks = _networks(problem)
    mlp = networks.mlp.with_tensors([x.detach() for x in networks.mlp.tensors()])
    return Prepared(lambda: jet(mlp, problem.z, networks.network, networks.slot, with_u_tt=False), _jet_outputs)


def operator_training(problem: Problem) -> Prepared:
    """The operator on leaves, whose gradients of the bias rows are those of biases and time weights."""
    networks = _networks(problem)
    mlp = networks.mlp.with_tensors([x.detach().requires_grad_() for x in networks.mlp.tensors()])
    leaves = mlp.tensors()
    coefficients = problem.bank.coefficients(WAVE, _samples(problem).potential)

    def call() -> tuple[Tensor, ...]:
        loss = residual_loss(mlp, problem.z, networks.network, networks.slot, coefficients)
        return loss, *torch.autograd.grad(loss, leaves)

    def outputs(result: tuple[Tensor, ...]) -> dict[str, Tensor]:
        loss, *bars = result
        depth = problem.case.depth
        weights, rows, (out_weight, out_bias) = bars[:depth], bars[depth:-2], bars[-2:]
        time_weight = TIME * rows[0][:, 0] + rows[0][:, 1]
        leaves_bar = [out_weight, out_bias, time_weight, *weights, *(row[:, 0] for row in rows)]
        return {"loss": loss.detach(), **problem.gradients(leaves_bar)}

    return Prepared(call, outputs)


def bank_jet(problem: Problem) -> Prepared:
    """PotentialBank.jet."""

    def call() -> ff.Jet:
        with torch.no_grad():
            return problem.bank.jet(problem.z, TIME, _index(problem), with_u_tt=False)

    return Prepared(call, _jet_outputs)


def bank_training(problem: Problem) -> Prepared:
    """pde_loss and the gradients of the bank's parameters."""
    wave = copy.deepcopy(WAVE).to(problem.z.device)  # whose constants no call then has to send there
    return _loss(problem, lambda: ff.pde_loss(problem.bank, problem.z, TIME, _index(problem), wave))


def flow(problem: Problem) -> Prepared:
    """The whole path in one call of `flow`."""

    def call() -> Tensor:
        with torch.no_grad():
            return ff.flow(problem.bank, problem.z, problem.index, problem.case.steps)

    return Prepared(call, lambda path: {"path": path})


def flow_backward(problem: Problem) -> Prepared:
    """The path and its backward, two calls."""
    z0 = problem.z.clone().requires_grad_()
    inputs = [z0, *problem.bank.parameters()]

    def call() -> tuple[Tensor, ...]:
        path = ff.flow(problem.bank, z0, problem.index, problem.case.steps)
        return torch.autograd.grad(path, inputs, problem.path_bar)

    return Prepared(call, lambda bars: {"d z0": bars[0], **problem.gradients(bars[1:])})


def rollout(problem: Problem) -> Prepared:
    """rollout_loss and the gradients of the bank's parameters."""
    return _loss(problem, lambda: ff.rollout_loss(problem.bank, problem.z, problem.index, problem.case.steps, WAVE)[0])


def _loss(problem: Problem, loss_of: Any) -> Prepared:
    parameters = list(problem.bank.parameters())

    def call() -> tuple[Tensor, ...]:
        loss = loss_of()
        return loss, *torch.autograd.grad(loss, parameters)

    return Prepared(call, lambda out: {"loss": out[0].detach(), **problem.gradients(out[1:])})


def _jet_outputs(result: ff.Jet) -> dict[str, Tensor]:
    return {name: getattr(result, name) for name in JET_OUTPUTS}


def _index(problem: Problem) -> int | Tensor:
    return 0 if problem.case.num_potentials == 1 else problem.index


def _networks(problem: Problem) -> Any:
    return problem.bank.networks(_samples(problem), problem.bank.tensors())


def _samples(problem: Problem) -> Any:
    return problem.bank.samples(problem.z, TIME, problem.index)
