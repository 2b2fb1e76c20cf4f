"""The page of a run: whole in itself, true to the tables, escaped, and there after a resume."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from training import report
from training.config import TrainConfig
from training.hyperparameters import REGISTRATION
from training.report import advice
from training.runlog import RunLog
from training.validation import Example

KEYS = "ssim_mri", "ssim_pet", "psnr_mri", "psnr_pet", "nmi_mri", "nmi_pet"


def scores(value):
    return {key: (value, 0.1, 2) for key in KEYS}


def train(folder, epochs, done=0, subject="s1"):
    """The log of a run whose pictures are as bright as the epoch's number."""
    log = RunLog(folder, done, done)
    for epoch in epochs:
        log.epoch(epoch, {"loss/total": 1 / epoch})
        log.scores(epoch, "average", scores(0.5))
        log.scores(epoch, "dc2fusion", scores(0.2 * epoch))
        volume = np.full((6, 4, 5), epoch / 10)
        log.example(epoch, "dc2fusion", Example(subject, volume, volume, volume))
        log.report(TrainConfig(epochs=4))
    log.close()
    return (folder / "report.html").read_text(encoding="utf-8")


def pictures(page):
    """The pictures in a page, by what they show."""
    found = re.findall(r'alt="([^"]*)" src="data:image/png;base64,([^"]*)"', page)
    return {words: np.asarray(Image.open(io.BytesIO(base64.b64decode(d)))) for words, d in found}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "a & b <i>"
    path.mkdir()
    return path


def test_the_page_is_whole_in_itself_and_escaped(folder):
    page = train(folder, [1, 2], subject="s<b>&")
    assert not re.search(r'(src|href)="(?!data:)', page) and "://" not in page
    assert "s<b>" not in page and "s&lt;b&gt;&amp;" in page
    assert "<i>" not in page and "a &amp; b &lt;i&gt;" in page
    assert "epoch 2 of 4" in page and "0.400" in page and "0.500" in page


def test_no_empty_panel(folder):
    """Dice is there where labels are."""
    losses = [{"epoch": "1", "loss/total": "1"}]
    row = {"method": "transmorph", "epoch": "1", "score": "similarity", "mean": "0.5"}
    for rows, titles in (
        ([row], ["loss", "similarity"]),
        ([row, row | {"score": "dice"}], ["loss", "Dice", "similarity"]),
        ([], ["loss", "Dice", "similarity", "folded voxels"]),
    ):
        figure = report._curves(losses, rows, "transmorph", report.LOOKS[REGISTRATION])
        assert [axes.get_title() for axes in figure.axes] == titles


def test_the_same_slice_over_the_epochs_also_after_a_resume(folder):
    train(folder, [1, 2, 3])
    shown = pictures(train(folder, [3, 4], done=2))
    assert list(shown) == ["loss and scores over the epochs", *(f"epoch {n}" for n in (1, 2, 3, 4))]
    for epoch in (1, 2, 3, 4):
        picture = shown[f"epoch {epoch}"]
        assert picture.shape[:2] == (4, 18)  # Y rows, three X columns
        assert abs(picture[..., 0].astype(float) - 25.5 * epoch).max() < 2
    done = pictures(train(folder, [1], done=0))  # begun again
    assert "epoch 2" not in done


def rows(*values, method="dc2fusion"):
    names = "ssim_mri", "ssim_pet"
    found = []
    for epoch, value in enumerate(values, start=1):
        for name in names:
            found.append({"epoch": epoch, "method": method, "score": name, "mean": value})
    return found


@pytest.mark.parametrize(
    ("mine", "epochs", "words"),
    [
        ([], 4, "no validation yet"),
        ([0.3], 4, "below the average's"),
        ([0.7], 4, "above the average's"),
        ([0.7], 4, "the training goes on; after an interruption: --resume"),
        ([0.7], 1, "infer_sigleImage.py --checkpoint run"),
        ([0.7, *[0.6] * 10], 20, "no better SSIM since epoch 1, 10 validations ago"),
    ],
)
def test_what_to_do_next(mine, epochs, words):
    known = rows(*mine) + rows(*[0.5] * len(mine), method="average")
    assert any(words in line for line in advice("run", known, "dc2fusion", epochs))
