"""Box plots of scores."""

from dataclasses import replace

from evaluation.plots import box_plot
from metrics import keys_of
from tests.helpers.score_tables import ROWS, example_scores, results_of


def test_a_label_is_shown_as_it_is_written():
    rows = [replace(row, title=f"${row.title}_") for row in ROWS]
    figure = box_plot(results_of(example_scores(), rows=rows), "psnr", keys_of("psnr"))
    figure.canvas.draw()  # a formula would be an error here
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == [row.title for row in rows]
