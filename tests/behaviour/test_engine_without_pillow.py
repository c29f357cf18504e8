"""The engine needs torch alone: what may be imported where Pillow, NumPy and the like are absent."""

import subprocess
import sys

import pytest

NEEDED_BY_OTHERS = ("numpy", "PIL", "jinja2", "safetensors", "tqdm", "tyro", "matplotlib", "sklearn", "gradio")


@pytest.mark.slow
def test_the_engine_works_where_no_package_but_torch_is_installed():
    """Not even Pillow or NumPy."""
    program = (
        "import sys\n"
        f"for name in {NEEDED_BY_OTHERS}: sys.modules[name] = None\n"
        "from fastflow.engine import PotentialBank, flow, pde_loss\n"
        "torch = sys.modules['torch']\n"  # which the engine has imported
        "bank = PotentialBank(2, 3, (8, 8))\nz = torch.randn(4, 3)\n"
        "pde_loss(bank, z, 0.0, 1).backward()\n"
        "assert flow(bank, z, 0, 3).shape == (4, 4, 3)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
