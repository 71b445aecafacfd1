import pytest

from grpojax.runs.reports import write


@pytest.fixture
def quick(monkeypatch):
    """Empty plots, for tests that read none."""
    monkeypatch.setattr(write, "plot", lambda panel: panel.name.encode())
