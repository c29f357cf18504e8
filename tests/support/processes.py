"""Processes of their own for tests, forked from a server that has imported all that takes time to import."""

import multiprocessing
import os
import socket

import torch
from support.moving import Bars

from fastflow import generators
from fastflow.core.errors import InputError
from fastflow.runs.train import discover, train_vae
from fastflow.training.config import DiscoverConfig
from fastflow.training.discover import Discovery
from fastflow.training.vae_config import VAEConfig

# A convolution's weight gradient is summed in an order that depends on the number of threads.
THREADS = 1


def context():
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["fastflow", "torch.distributed", "torch._dynamo"])
    return server


def train(folder, settings, options=None, environment=None, refuse=False):
    """What a child does: a VAE's training where settings name data, or a discovery on the digits VAE.

    This child alone may refuse the latents of the latter.
    """
    torch.set_num_threads(THREADS)
    os.environ.update(environment or {})
    if refuse:
        Discovery.losses = _refuse
    if "data" in settings:
        train_vae(VAEConfig(**settings), out=folder, data=Bars(), progress=False, **(options or {}))
        return
    config = DiscoverConfig(**settings)
    discover(generators.load("digits-vae"), config, folder, progress=False, **(options or {}))


def _refuse(task, batch):
    raise InputError("z0 must be finite, got NaN or infinity")


def train_team(size, folder, settings, options=None, refusing_rank=None):
    """Children that train together, as torchrun would have started them; not waited for."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    children = [
        context().Process(
            target=train,
            args=(
                folder,
                settings,
                options,
                {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                rank == refusing_rank,
            ),
        )
        for rank in range(size)
    ]
    for child in children:
        child.start()
    return children
