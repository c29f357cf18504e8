"""Named ranges on the timeline of a profiler such as Nsight Systems: there with FASTFLOW_NVTX=1, and free without."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

ENABLED = os.environ.get("FASTFLOW_NVTX", "0") == "1"


def profiled(name: str) -> AbstractContextManager[object]:
    """The range `fastflow.<name>` around what runs inside the context."""
    if not ENABLED:
        return nullcontext()
    import nvtx

    return nvtx.annotate(f"fastflow.{name}", domain="fastflow")
