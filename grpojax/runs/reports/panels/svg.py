"""Panels as SVG plots; equal panels give equal bytes."""

import io
import warnings

import numpy as np

from .panels import Curve, Panel


# The palette of Okabe and Ito, which color-blind readers can distinguish.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#B0548A", "#56B4E9", "#E69F00", "#555555")

_STYLE: dict = {
    "svg.hashsalt": "grpojax",
    "svg.fonttype": "path",
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
}


MARK = b"grpojax report"
"""What every plot of a report has in its first lines."""

_METADATA = {"Date": None, "Creator": MARK.decode()}


def plot(panel: Panel) -> bytes:
    """Plots a panel as SVG."""
    # Slow to import. A `Figure` without pyplot needs no display.
    import matplotlib
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with (
        matplotlib.style.context("default"),
        matplotlib.rc_context(_STYLE),
        warnings.catch_warnings(),
    ):
        # The font may lack glyphs of the script that a metric is named in.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure = Figure(figsize=(6, 3.2))
        axes = figure.add_axes((0.12, 0.15, 0.85, 0.73))
        for curve in panel.curves:
            _draw(axes, curve)
        axes.set_title(panel.title, loc="left", fontweight="bold")
        axes.set_xlabel("step")
        axes.set_ylabel(panel.unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(panel.curves) > 1:
            # Below the axes, where it covers no curve.
            axes.legend(
                fontsize=8, ncols=2, loc="upper left", bbox_to_anchor=(0, -0.16)
            )
        file = io.BytesIO()
        figure.savefig(file, format="svg", bbox_inches="tight", metadata=_METADATA)
    return file.getvalue()


def _draw(axes, curve: Curve) -> None:
    color = COLORS[curve.color % len(COLORS)]
    line = {"linewidth": 0.8, "alpha": 0.55} if curve.faint else {"linewidth": 1.6}
    mark = (
        {"marker": "o", "markersize": 4} if curve.dots or len(curve.steps) < 2 else {}
    )
    axes.plot(
        curve.steps,
        np.array(curve.values, float),
        color=color,
        # Matplotlib hides labels that start with an underscore.
        label=curve.label.lstrip("_"),
        **line,
        **mark,
    )
    if curve.low is None or curve.high is None:
        return
    low, high = np.array(curve.low, float), np.array(curve.high, float)
    axes.fill_between(curve.steps, low, high, color=color, alpha=0.15, linewidth=0)
    if curve.dots:
        axes.vlines(curve.steps, low, high, color=color, linewidth=1)
