"""Pictures: what lands where on the page, in which size, and that files appear whole or not."""

import threading
import warnings
from dataclasses import replace

import numpy as np
import pytest
from matplotlib import image as png
from matplotlib.font_manager import fontManager
from matplotlib.text import Text

from utils.colour import colour_map
from utils.errors import InputError
from utils.pictures import (
    COLUMNS,
    comparison_figure,
    fusion_figure,
    planes_through_centre,
    save_figure,
)
from utils.planes import PLANES


def head(shape=(40, 48, 36)):
    """A dim ellipsoid with a bright cube in the patient's right-anterior-superior octant."""
    centred = [(i - (n - 1) / 2) / (n / 2) for i, n in zip(np.indices(shape), shape, strict=True)]
    volume = np.where(sum(c**2 for c in centred) < 0.9, 0.2, 0.0).astype(np.float32)
    i, j, k = (int(n * 0.65) for n in shape)
    volume[i - 3 : i + 3, j - 3 : j + 3, k - 3 : k + 3] = 1
    return volume, (i, j, k)


def panels(figure):
    """label -> RGB image in [0, 1] of one panel, as drawn, first row at the top."""
    figure.canvas.draw()
    page = np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255.0
    height = page.shape[0]
    result = {}
    for axes in figure.axes:
        x0, y0, x1, y1 = (round(float(v)) for v in axes.get_window_extent().extents)
        result[axes.get_label()] = page[height - y1 : height - y0, x0:x1]
    return result


def brightest(panel):
    """(row, column) of the centre of the bright cube as fractions, corners with the labels left
    out.
    """
    rows, columns = panel.shape[:2]
    grey = panel.mean(axis=-1)
    grey[: rows // 8, : columns // 6] = grey[: rows // 8, -columns // 6 :] = 0
    row, column = np.nonzero(grey > 0.8)
    return row.mean() / rows, column.mean() / columns


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("name", ["MRI", "fused"])
def test_right_anterior_superior_is_at_the_upper_left(plane, name):
    volume, position = head()
    figure = fusion_figure(volume, 0 * volume, volume, position=position)
    row, column = brightest(panels(figure)[f"{plane} {name}"])
    # At 65 % of every axis, and every axis runs to the left or to the top.
    assert row == pytest.approx(0.35, abs=0.03)
    assert column == pytest.approx(0.35, abs=0.03)


def test_side_letters_are_those_of_the_radiological_convention():
    volume, _ = head()
    figure = fusion_figure(volume, volume, volume)
    for axes in figure.axes[: len(PLANES) * len(COLUMNS)]:
        letters = [text.get_text() for text in sorted(axes.texts, key=lambda t: t.get_position())]
        sagittal = axes.get_label().startswith("sagittal")
        assert letters == (["A", "P"] if sagittal else ["R", "L"])


def test_a_ball_is_round_whatever_the_voxel_size():
    shape, voxel_mm = (60, 40, 20), (1.0, 1.5, 3.0)
    mm = [(i - (n - 1) / 2) * e for i, n, e in zip(np.indices(shape), shape, voxel_mm, strict=True)]
    ball = (sum(c**2 for c in mm) < 20**2).astype(np.float32)
    drawn = panels(fusion_figure(ball, 0 * ball, ball, voxel_mm))
    sizes = []
    for plane in PLANES:
        panel = drawn[f"{plane} MRI"].mean(axis=-1) > 0.5
        panel[: panel.shape[0] // 7] = False
        rows, columns = panel.any(axis=1).sum(), panel.any(axis=0).sum()
        sizes += [rows, columns]
    assert max(sizes) - min(sizes) <= 0.1 * max(sizes), sizes


def test_colour_is_the_fused_grey_where_there_is_no_uptake_and_warm_elsewhere():
    fused = np.full((32, 32, 32), 0.5, np.float32)
    pet = np.zeros_like(fused)
    pet[16:] = 0.6  # the patient's right: the left half of the axial picture
    colour = panels(fusion_figure(fused, pet, fused))["axial colour"]
    rows, columns = colour.shape[:2]
    hot, clear = colour[rows // 2, columns // 4], colour[rows // 2, -columns // 4]
    assert hot[0] > hot[2] + 0.2
    np.testing.assert_allclose(clear, 0.5, atol=0.02)


def test_the_colours_of_the_pet_are_those_asked_for():
    mri = np.full((32, 32, 32), 0.5, np.float32)
    figure = fusion_figure(mri, mri, mri, colours=colour_map("viridis"))
    panel = panels(figure)["axial PET"]
    middle = panel[panel.shape[0] // 2, panel.shape[1] // 2]
    np.testing.assert_allclose(middle, (0.128, 0.567, 0.551), atol=0.02)  # viridis at 0.5
    assert "viridis" in " ".join(text.get_text() for text in figure.texts)


def test_window_is_fixed():
    volume, position = head()
    drawn = panels(fusion_figure(volume, volume, 0.5 * volume, position=position))
    mri, fused = drawn["axial MRI"].mean(-1), drawn["axial fused"].mean(-1)
    middle = (mri.shape[0] // 2, mri.shape[1] // 2)
    assert mri[middle] == pytest.approx(0.2, abs=0.02)
    assert fused[middle] == pytest.approx(0.1, abs=0.02)


def test_default_planes_cross_in_the_foreground_and_are_said():
    mri = np.zeros((30, 30, 30), np.float32)
    mri[20:27, 5:8, 10:13] = 1
    words = " ".join(text.get_text() for text in fusion_figure(mri, mri, mri).texts)
    assert "i=23, j=6, k=11" in words
    assert "radiological convention" in words and "[0, 1]" in words


def test_an_empty_mri_is_cut_through_its_middle():
    empty = np.zeros((9, 11, 13), np.float32)
    words = " ".join(text.get_text() for text in fusion_figure(empty, empty, empty).texts)
    assert "i=4, j=5, k=6" in words


def test_texts_do_not_overlap():
    volume, _ = head()
    figure = fusion_figure(volume, volume, volume, title="synthetic-001, E=24, 64^3, epoch 12")
    figure.canvas.draw()
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    boxes = [text.get_window_extent() for text in texts]
    page = figure.bbox
    for i, box in enumerate(boxes):
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
        assert not any(box.overlaps(other) for other in boxes[i + 1 :]), texts[i].get_text()


@pytest.mark.parametrize(
    ("shapes", "options"),
    [
        ([(4, 4, 4), (4, 4, 4), (4, 4, 5)], {}),
        ([(4, 4)] * 3, {}),
        ([(4, 4, 4)] * 3, {"voxel_mm": (1, 1, 0)}),
        ([(4, 4, 4)] * 3, {"voxel_mm": (1, 1)}),
        ([(4, 4, 4)] * 3, {"position": (0, 0, 4)}),
        ([(4, 4, 4)] * 3, {"position": (-1, 0, 0)}),
    ],
)
def test_wrong_arguments_are_refused(shapes, options):
    with pytest.raises(ValueError):
        fusion_figure(*[np.zeros(shape) for shape in shapes], **options)


def test_png_is_written_whole_and_alone(tmp_path):
    volume, _ = head()
    path = tmp_path / "new" / "pair.png"
    save_figure(path, fusion_figure(volume, volume, volume, (2, 2, 2)))
    assert png.imread(path).shape[2] == 4
    assert [p.name for p in path.parent.iterdir()] == ["pair.png"]


@pytest.mark.parametrize("name", ["cost$_", "a$b^{c$", "患者 1", "\\frac{", "a_b^c"])
def test_names_are_shown_as_they_are_written(tmp_path, name):
    """`$` begins no formula, and a letter that the font lacks is no warning."""
    volumes = [head()[0]] * 3
    planes = planes_through_centre(volumes[0], {name: volumes[0]})
    pages = {
        "fusion": fusion_figure(*volumes, title=name),
        "comparison": comparison_figure({name: planes}, {name: name}, {name: (1, 1, 1)}),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind, page in pages.items():
            save_figure(tmp_path / f"{kind}.png", page)
            assert name in [text.get_text() for text in page.texts]


def test_letters_come_from_whatever_font_is_there(tmp_path, monkeypatch):
    """Of the fonts with Chinese letters only an installed one is asked for."""
    volumes = [head()[0]] * 3
    page = fusion_figure(*volumes, title="患者")
    serif = next(font for font in fontManager.ttflist if font.name == "DejaVu Serif")
    further = replace(serif, name="SimHei")
    monkeypatch.setattr(fontManager, "ttflist", [*fontManager.ttflist, further])
    save_figure(tmp_path / "page.png", page)
    families = {text.get_text(): text.get_fontfamily() for text in page.findobj(Text)}
    assert families["患者"][-1] == "SimHei" and "SimHei" not in families["MRI"]


def test_a_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    volume, _ = head()
    path = tmp_path / "pair.png"
    save_figure(path, fusion_figure(volume, volume, volume))
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(InputError, match="No space left"):
        save_figure(path, fusion_figure(volume, volume, 0 * volume))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["pair.png"]


def test_a_path_under_a_file_is_an_input_error(tmp_path):
    volume, _ = head()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save_figure(tmp_path / "file" / "pair.png", fusion_figure(volume, volume, volume))


def test_threads_can_draw_at_once_and_pyplot_holds_nothing(tmp_path):
    from matplotlib import pyplot

    volume, _ = head()

    def draw(path):
        save_figure(path, fusion_figure(volume, volume, volume))

    draw(tmp_path / "alone.png")
    expected = (tmp_path / "alone.png").read_bytes()
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    threads = [threading.Thread(target=draw, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() for path in paths] == [expected] * 3
    assert pyplot.get_fignums() == []


def test_tensorboard_takes_the_figure(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    volume, _ = head()
    with SummaryWriter(tmp_path) as writer:
        writer.add_figure("pair", fusion_figure(volume, volume, volume), 1)
    assert next(tmp_path.glob("events*")).stat().st_size > 10_000
