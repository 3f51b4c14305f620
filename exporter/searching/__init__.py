"""Which layer bears which scheme, and the best mix for a number of bytes."""

from exporter.searching.goals import Goal
from exporter.searching.searching import Found, search, write_new
from exporter.searching.showing import curve_picture, measured_beside, render_found

__all__ = ["Found", "Goal", "curve_picture", "measured_beside", "render_found", "search", "write_new"]
