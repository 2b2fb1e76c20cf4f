"""The tables: what is bold, what stands where, and that LaTeX can read it."""

import re

import pytest

from evaluation.tables import PAPER_ROWS, escape, latex, markdown
from tests.helpers.score_tables import example_scores, results_of


@pytest.fixture
def values():
    return example_scores()


def test_markdown_has_marks_minima_and_the_rules(values):
    text = markdown([results_of(values)])
    assert "| Method | PSNR ↑ | SSIM ↑ | PSNR min ↑ | SSIM min ↑ |" in text
    assert "**19.000±0.000**" in text and "<u>18.000±0.000</u>" in text
    assert "copy of the MRI ‡" in text
    assert "ddof = 0" in text and "n = 3" in text


@pytest.mark.parametrize("render", [markdown, latex])
def test_the_papers_rows_stand_apart_and_only_beside_the_published_protocol(values, render):
    assert "SwinFuse" not in render([results_of(values)])
    text = render([results_of(values, "published")])
    assert text.index("other subjects") < text.index("SwinFuse")
    for name, cells in PAPER_ROWS.items():
        line = next(line for line in text.splitlines() if name in line)
        for cell in cells:
            mean, deviation = cell.split("±")
            assert mean in line and deviation in line


def test_latex_tables_are_whole(values):
    text = latex([results_of(values, "published"), results_of(values)])
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
