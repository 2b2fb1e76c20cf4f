"""The tables: what is bold, what is never ranked, what is counted, and that LaTeX can read it."""

import csv
import re
import statistics

import numpy as np
import pytest

from evaluation.tables import (
    GROUPS,
    PAPER_ROWS,
    Results,
    Row,
    column,
    escape,
    latex,
    markdown,
    pairings,
    selection_scores,
    statistics_csv,
    statistics_markdown,
)
from metrics import METRICS

ROWS = [Row("net_1", "net_1", False), Row("other", "other", False)]
ROWS += [Row("average", "average", True), Row("copy-mri", "copy of the MRI", True)]


def parts(name, mri, pet):
    mri, pet = np.asarray(mri, float), np.asarray(pet, float)
    return {
        name: (mri + pet) / 2,
        f"{name}_mri": mri,
        f"{name}_pet": pet,
        f"{name}_min": np.minimum(mri, pet),
    }


@pytest.fixture
def values():
    """Three participants; the copy has the largest mean in every score."""
    return {
        "net_1": parts("psnr", [20, 21, 22], [18, 18, 18])
        | parts("ssim", [0.8, 0.7, 0.6], [0.5, 0.5, 0.5]),
        "other": parts("psnr", [25, 25, 25], [12, 12, 12])
        | parts("ssim", [0.9, 0.9, 0.9], [0.3, 0.3, 0.3]),
        "average": parts("psnr", [19, 19, 19], [19, 19, 19])
        | parts("ssim", [0.6, 0.6, 0.6], [0.6, 0.6, 0.6]),
        "copy-mri": parts("psnr", [np.inf] * 3, [11, 11, 11])
        | parts("ssim", [1, 1, 1], [0.45, 0.45, 0.45]),
    }


def results(values, protocol="volume", rows=ROWS):
    return Results(protocol, rows, values, "About.")


def by_method(cells):
    return dict(zip([row.label for row in ROWS], cells, strict=True))


def test_every_metric_stands_in_one_group():
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(METRICS)


def test_cells_have_the_mean_and_the_population_deviation(values):
    cell = by_method(column(results(values), "psnr"))["net_1"]
    deviation = statistics.pstdev([19, 19.5, 20])
    assert cell.text == f"19.500±{deviation:.3f}"


def test_best_and_second_are_ranked_and_a_copy_never_is(values):
    cells = by_method(column(results(values), "ssim"))
    assert cells["copy-mri"].text.startswith("0.725") and cells["copy-mri"].rank is None
    assert {label: cell.rank for label, cell in cells.items()} == {
        "net_1": 1,  # 0.600, printed like the two others
        "other": 1,
        "average": 1,
        "copy-mri": None,
    }
    ranks = {
        label: cell.rank for label, cell in by_method(column(results(values), "psnr_min")).items()
    }
    assert ranks == {"net_1": 2, "other": None, "average": 1, "copy-mri": None}


def test_a_copy_is_told_by_its_psnr_whatever_its_name(values):
    values["other"] = parts("psnr", [80, 75, 90], [11, 11, 11]) | parts(
        "ssim", [1, 1, 1], [0.45, 0.45, 0.45]
    )
    shown = results(values)
    assert shown.copies == {"copy-mri", "other"}
    assert by_method(column(shown, "psnr"))["other"].rank is None
    values["other"]["psnr_mri"][0] = 59  # one participant that is not a copy
    assert results(values).copies == {"copy-mri"}


def test_infinite_scores_are_shown_and_not_averaged(values):
    values["other"]["psnr"][1] = np.inf
    cells = by_method(column(results(values), "psnr"))
    assert cells["copy-mri"].text == "∞"
    assert cells["other"].text == "∞ in 1" and cells["other"].rank is None


def test_missing_scores_are_counted_and_not_ranked(values):
    values["average"]["psnr_min"] = np.array([np.nan, 30.0, 40.0])
    values["other"]["ssim"][:] = np.nan
    shown = results(values)
    cells = by_method(column(shown, "psnr_min"))
    assert cells["average"].text == "35.000±5.000 (n=2)" and cells["average"].rank is None
    assert by_method(column(shown, "ssim"))["other"].text == "– (n=0)"
    text = markdown([shown])
    assert "average: PSNR (1 of 3)" in text and "other: SSIM (3 of 3)" in text


def test_metrics_without_a_reference_are_not_ranked():
    scores = {
        "net_1": {"sd": [30.0, 31.0], "psnr": [1.0, 2.0]},
        "other": {"sd": [50.0, 50.0], "psnr": [2.0, 2.0]},
    }
    shown = results(scores, rows=ROWS[:2])
    assert [cell.rank for cell in column(shown, "sd")] == [None, None]


def test_the_score_of_the_best_checkpoint_is_not_won_by_a_copy(values):
    chosen = selection_scores(results(values))
    assert chosen["net_1"] == pytest.approx(0.5) and chosen["average"] == pytest.approx(0.6)
    assert chosen["copy-mri"] == pytest.approx(0.45)
    assert max(chosen, key=chosen.get) == "average"
    assert "The score that chooses best.pt" in markdown([results(values)])


def test_markdown_has_marks_minima_and_the_rules(values):
    text = markdown([results(values)])
    assert "| Method | PSNR ↑ | SSIM ↑ | PSNR min ↑ | SSIM min ↑ |" in text
    assert "**19.000±0.000**" in text and "<u>18.000±0.000</u>" in text
    assert "copy of the MRI ‡" in text
    assert "ddof = 0" in text and "n = 3" in text


@pytest.mark.parametrize("render", [markdown, latex])
def test_the_papers_rows_stand_apart_and_only_beside_the_published_protocol(values, render):
    assert "SwinFuse" not in render([results(values)])
    text = render([results(values, "published")])
    assert text.index("other subjects") < text.index("SwinFuse")
    for name, cells in PAPER_ROWS.items():
        line = next(line for line in text.splitlines() if name in line)
        for cell in cells:
            mean, deviation = cell.split("±")
            assert mean in line and deviation in line


def test_latex_tables_are_whole(values):
    text = latex([results(values, "published"), results(values)])
    assert r"net\_1" in text and "net_1" not in text
    assert not set("±∞↑↓‡–³") & set(text)
    assert (
        text.count(r"\begin{tabular}")
        == text.count(r"\end{tabular}")
        == text.count(r"\bottomrule")
        == 3
    )
    for spec, body in re.findall(
        r"\\begin\{tabular\}\{(l?c+)\}(.*?)\\end\{tabular\}", text, re.DOTALL
    ):
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(lines) >= 4
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(spec)}
    for opening, closing in ("{}", ("$", "$")):
        plain = re.sub(r"\\[{}$%]", "", text)
        assert plain.count(opening) == plain.count(closing)
        assert opening != "$" or plain.count("$") % 2 == 0


def test_escaping_leaves_no_special_character():
    assert escape("a_b & 50% #1 {x} ~^\\") == (
        r"a\_b \& 50\% \#1 \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{}"
    )


def test_statistics_compare_methods_with_all_rows_but_not_trivial_ones_among_themselves(values):
    shown = results(values)
    found = pairings(shown)
    pairs = {(p.a.label, p.b.label) for p in found}
    assert pairs == {
        ("net_1", "other"),
        ("net_1", "average"),
        ("net_1", "copy-mri"),
        ("other", "average"),
        ("other", "copy-mri"),
    }
    text = statistics_csv({"volume": found})
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == len(found) == 5 * 4
    row = next(
        r for r in rows if (r["metric"], r["source"], r["method_b"]) == ("ssim", "min", "average")
    )
    assert float(row["mean_difference"]) == pytest.approx(-0.1)
    infinite = next(
        r for r in rows if (r["metric"], r["source"], r["method_b"]) == ("psnr", "mean", "copy-mri")
    )
    assert infinite["n"] == "0" and infinite["p"] == "nan"
    assert all(float(r["p_holm"]) >= float(r["p"]) for r in rows if r["p"] != "nan")


def test_few_participants_are_said_to_prove_nothing(values):
    shown = results(values)
    assert "nothing here can be significant" in statistics_markdown(
        [shown], {"volume": pairings(shown)}
    )
    many = {
        m: {k: np.tile(v, 2) + np.arange(6) / 100 for k, v in s.items()} for m, s in values.items()
    }
    shown = results(many)
    assert "nothing here can be significant" not in statistics_markdown(
        [shown], {"volume": pairings(shown)}
    )
