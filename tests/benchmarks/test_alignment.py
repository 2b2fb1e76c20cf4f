"""The alignment experiment: its tables and its verdicts, with the registration itself replaced."""

import numpy as np
import pytest

from benchmarks import alignment
from preparation.align.pose import Pose
from preparation.align.template import BrainFit

GOOD = {
    "start": "com",
    "rotation_deg": 3.0,
    "nmi_brain": 1.07,
    "nmi_mirrored": 1.06,
    "contrast": 3.5,
    "fov_cover": 1.0,
}


@pytest.fixture
def replaced(monkeypatch):
    """Function (figures) that makes every registration answer "do not move", with these figures."""

    def replace(figures):
        def brain(mri, template, voxel_mm):
            inside = np.zeros(mri.array.shape, bool)
            inside[8:14, 8:16, 8:14] = True
            return BrainFit(np.eye(4), inside, 0.9, (1.0, 1.0, 1.0))

        monkeypatch.setattr(alignment, "load_template", lambda path: None)
        monkeypatch.setattr(alignment, "find_brain", brain)
        monkeypatch.setattr(
            alignment, "find_pose", lambda *args, **options: Pose(np.eye(4), "com", 3.0)
        )
        monkeypatch.setattr(alignment, "measure", lambda *args: dict(figures))

    return replace


def cells(out: str, name: str) -> list[str]:
    line = next(line for line in out.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_errors_are_those_of_the_misalignment(replaced, capsys):
    replaced(GOOD)
    assert (
        alignment.main(["--synthetic", "1", "--voxel-mm", "8", "--count", "3", "--hard", "0"]) == 0
    )
    out = capsys.readouterr().out
    for how in ("moved", "resampled"):
        count, before, mean, worst_mean, worst, flagged, _ = map(
            float, cells(out, f"synthetic 1, {how}")
        )
        # Nothing was undone, so the error is what it was before: 5 to 15 mm, and as many degrees.
        assert (count, flagged) == (3, 0)
        assert mean == pytest.approx(before, abs=0.06) and 5 < mean < worst_mean < worst < 40


def test_what_passes_silently_is_said(replaced, capsys):
    replaced(GOOD)
    flags = ["--synthetic", "1", "--voxel-mm", "8", "--count", "0", "--hard", "1"]
    assert alignment.main(flags) == 1
    out = capsys.readouterr().out
    assert cells(out, "synthetic 1: 90 degrees nodding")[0] == "PASSED SILENTLY"
    assert cells(out, "synthetic 1: pure noise")[0] == "PASSED SILENTLY"
    assert cells(out, "synthetic 1: noise of 20 % of the maximum")[0] == "recovered"
    assert cells(out, "synthetic 1: one voxel 1e6 times the rest")[0] == "recovered, flagged"
    for name in ("one infinite voxel", "one NaN", "constant", "all 0"):
        assert cells(out, f"synthetic 1: {name}")[0] == "refused"


def test_flags_are_enough(replaced, capsys):
    replaced(GOOD | {"contrast": 1.0})
    assert (
        alignment.main(["--synthetic", "1", "--voxel-mm", "8", "--count", "0", "--hard", "1"]) == 0
    )
    out = capsys.readouterr().out
    assert cells(out, "synthetic 1: pure noise")[0] == "flagged"
    assert out.splitlines()[-1] == "0 passed silently"
