"""What a person looks at: strips and animations of traversals, and one page for a run."""

from fastflow.report.edited import write_edited
from fastflow.report.grids import save_grid
from fastflow.report.page import write_report
from fastflow.report.strips import save_gif, save_strip
from fastflow.report.traversals import write_traversals
from fastflow.report.videos import save_mp4

__all__ = ["save_gif", "save_grid", "save_mp4", "save_strip", "write_edited", "write_report", "write_traversals"]
