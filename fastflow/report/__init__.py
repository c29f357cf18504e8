"""What a person looks at: strips and animations of traversals, and one page for a run."""

from fastflow.report.page import write_report
from fastflow.report.strips import save_gif, save_strip
from fastflow.report.traversals import write_traversals

__all__ = ["save_gif", "save_strip", "write_report", "write_traversals"]
