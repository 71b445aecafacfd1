"""Curves of one run or of several, grouped into panels, and their SVG plots."""

from .overlay import overlay_panels as overlay_panels
from .panels import Curve as Curve, Panel as Panel, run_panels as run_panels
from .svg import plot as plot
