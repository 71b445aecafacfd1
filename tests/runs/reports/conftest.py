import pytest

from grpojax.runs.reports import write


@pytest.fixture
def quick(monkeypatch):
    """Empty pictures, for the many tests that read no picture."""
    monkeypatch.setattr(write, "plot", lambda panel: panel.name.encode())
