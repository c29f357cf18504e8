"""What people look at: a page of a run or a comparison, and traversals and edits as pictures."""

from fastflow.pictures.grids import save_grid
from fastflow.pictures.strips import save_gif, save_strip
from fastflow.pictures.videos import save_mp4
from fastflow.report.edited import write_edited
from fastflow.report.page import write_report
from fastflow.report.traversals import write_traversals

__all__ = ["save_gif", "save_grid", "save_mp4", "save_strip", "write_edited", "write_report", "write_traversals"]
