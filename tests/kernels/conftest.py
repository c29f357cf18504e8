"""Where the kernels run: on a CUDA device, or where there is none, in Triton's interpreter on the CPU."""

import os

import pytest
import torch

if torch.cuda.is_available():
    # What cuBLAS needs under torch.use_deterministic_algorithms, which fills fresh memory below.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


ON_GPU = pytest.param("cuda", marks=pytest.mark.gpu)


@pytest.fixture(params=[ON_GPU] if torch.cuda.is_available() else ["cpu", ON_GPU])
def device(request):
    return request.param


@pytest.fixture
def _fresh_memory_is_nan():
    """What a kernel leaves unwritten shows: new tensors are filled with NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.zeros(1).new_empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
