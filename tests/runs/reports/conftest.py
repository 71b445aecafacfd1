import pytest

from grpojax.runs.reports import write
from grpojax.runs.reports.panels.svg import MARK


@pytest.fixture
def quick(monkeypatch):
    """Empty plots, for tests that read none."""
    monkeypatch.setattr(write, "plot", lambda panel: MARK + panel.name.encode())
