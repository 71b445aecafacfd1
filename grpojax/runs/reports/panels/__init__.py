"""Curves of one run or of several, grouped into panels, and their SVG plots."""
