"""Named ranges for the timeline of a profiler such as Nsight Systems; FASTFLOW_NVTX=1 turns them on."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

ENABLED = os.environ.get("FASTFLOW_NVTX", "0") == "1"


def profiled(name: str) -> AbstractContextManager[object]:
    """A context whose code appears as the range `fastflow.<name>` on the timeline."""
    if not ENABLED:
        return nullcontext()
    import nvtx

    return nvtx.annotate(f"fastflow.{name}", domain="fastflow")
