import pytest

from grpojax.runs.training.display.curve import plot_curve


RECORDS = [
    {"step": step, "reward": step / 10, "rewards/correct/mean": step / 20}
    for step in range(1, 6)
]
POINTS = [(0, 0.25, (0.2, 0.3)), (2, 0.5, (0.4, 0.6)), (5, 0.0, (0.0, 0.3))]


@pytest.mark.parametrize("records", [RECORDS, [{"step": 1, "reward": 1.0}], []])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_curve_is_drawn(tmp_path, records, count):
    path = tmp_path / "curve.png"
    plot_curve(path, records, {"held_out": POINTS[:count]} if count else {})
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_measured_accuracies_are_in_the_picture(tmp_path):
    path = tmp_path / "curve.svg"
    plot_curve(path, RECORDS, {"held_out": POINTS[:2], "math": POINTS[1:]})
    drawn = path.read_text()
    assert "held_out: 25.0% to 50.0%" in drawn and "math: 50.0% to 0.0%" in drawn
