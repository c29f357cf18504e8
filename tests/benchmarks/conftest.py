"""The benchmarks are no part of the package: they are imported from the checkout, after everything installed."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
