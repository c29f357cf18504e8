"""Processes of their own for tests, forked from a server that has imported all that takes time to import."""

import multiprocessing
import os
import socket
import subprocess
import sys

import torch
from support.moving import Bars

from fastflow import generators
from fastflow.core.errors import InputError
from fastflow.runs.train import discover, train_vae
from fastflow.training.discover import Discovery
from fastflow.training.flow_config import DiscoverConfig
from fastflow.training.vae_config import VAEConfig

# A convolution's weight gradient is summed in an order that depends on the number of threads.
THREADS = 1


def context():
    server = multiprocessing.get_context("forkserver")
    # All that this module imports of fastflow, and what training imports late; the server finds no `support`.
    server.set_forkserver_preload(["fastflow.runs.train", "torch.distributed", "torch._dynamo", "torch.profiler"])
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


def train_group(size, folder, settings, options=None, refusing_rank=None):
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


# Each program gets what importing torch takes, which is seconds, for nothing, and nothing of fastflow.
_FORKS = """
import os, sys, torch
for program in sys.argv[1:]:
    child = os.fork()
    if not child:
        exec(program, {"__name__": "__main__"})
        sys.stdout.flush()
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("this program failed: " + program)
    print(end="\\0", flush=True)
"""


def in_forks(*programs: str) -> list[str]:
    """What each program prints, in a process of its own that has imported torch and nothing of fastflow."""
    done = subprocess.run([sys.executable, "-c", _FORKS, *programs], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\0")[:-1]
