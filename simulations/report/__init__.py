"""What a run looked like: one HTML page, PNGs, live progress while it runs. See docs/simulation.md, "The report"."""

from simulations.report.drawing import PicturesUnavailable
from simulations.report.page import report_page, write_report
from simulations.report.pictures import write_overview, write_pictures
from simulations.report.progress import Progress

__all__ = ["PicturesUnavailable", "Progress", "report_page", "write_overview", "write_pictures", "write_report"]
