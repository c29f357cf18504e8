"""What a forked child has to change before it computes with torch."""

from __future__ import annotations

import os

import torch

_threads_at_fork = 0  # of a child that hasn't computed yet; otherwise 0


def _remember_threads() -> None:
    global _threads_at_fork
    _threads_at_fork = torch.get_num_threads()


os.register_at_fork(after_in_child=_remember_threads)


def use_one_thread_if_forked() -> None:
    """Let torch compute with one thread in a forked child, unless the child has set another number itself.

    A child has none of the threads of torch's pool (OpenMP), and waits for them for ever if its parent had used them.
    """
    global _threads_at_fork
    if _threads_at_fork:
        if torch.get_num_threads() == _threads_at_fork:
            torch.set_num_threads(1)
        _threads_at_fork = 0
