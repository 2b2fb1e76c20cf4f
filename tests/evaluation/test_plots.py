"""Box plots of scores, and pages of pictures."""

from dataclasses import replace

import numpy as np

from evaluation import plots
from evaluation.plots import box_plot, save_slices
from evaluation.results import Row
from metrics import keys_of
from tests.helpers.score_tables import ROWS, example_scores, results_of


def test_a_label_is_shown_as_it_is_written():
    rows = [replace(row, title=f"${row.title}_") for row in ROWS]
    figure = box_plot(results_of(example_scores(), rows=rows), "psnr", keys_of("psnr"))
    figure.canvas.draw()  # a formula would be an error here
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == [row.title for row in rows]


def save_subjects(folder, names, shade=0.5):
    for name in names:
        planes = {"axial": np.full((8, 8), shade)}
        save_slices(folder, name, {"MRI": planes, "PET": planes, "average": planes}, (1, 1, 1))


def test_only_pages_of_something_new_are_drawn(tmp_path, monkeypatch):
    """Fifty pages take minutes, and the same command may add one subject."""
    rows = [Row("average", "average", True)]
    names = [f"s{number}" for number in range(6)]
    drawn = []
    monkeypatch.setattr(
        plots, "save_figure", lambda path, *_, **__: (drawn.append(path.name), path.touch())
    )

    def save(names, rows=rows):
        drawn.clear()
        plots.save_pages(tmp_path, names, rows)
        return drawn

    save_subjects(tmp_path, names)
    assert save(names) == ["pictures-01.png", "pictures-02.png"]
    assert save(names) == []
    save_subjects(tmp_path, ["s5"], shade=0.6)
    assert save(names) == ["pictures-02.png"]
    (tmp_path / "pictures-01.png").unlink()
    assert save(names) == ["pictures-01.png"]
    assert save(names, [replace(rows[0], title="mean")]) == ["pictures-01.png", "pictures-02.png"]
    assert save(names[:4]) == ["pictures-01.png"]  # with its first title again
    assert not (tmp_path / "pictures-02.png").exists()
