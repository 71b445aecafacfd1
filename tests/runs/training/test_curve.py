import pytest

from grpojax.runs.training.display.curve import plot_curve


RECORDS = [
    {"step": step, "reward": step / 10, "rewards/correct/mean": step / 20}
    for step in range(1, 6)
]


@pytest.mark.parametrize("records", [RECORDS, [{"step": 1, "reward": 1.0}], []])
@pytest.mark.parametrize("measured", [(0.5, (0.4, 0.6)), (0.0, (0.0, 0.3)), None])
def test_a_curve_is_drawn(tmp_path, records, measured):
    path = tmp_path / "curve.png"
    plot_curve(path, records, before=measured, after=measured)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_measured_accuracy_is_in_the_picture(tmp_path):
    path = tmp_path / "curve.svg"
    plot_curve(path, RECORDS, before=(0.25, (0.2, 0.3)))
    drawn = path.read_text()
    assert "held-out accuracy before: 25.0%" in drawn
    assert "after" not in drawn
