"""Colour: the luminance is the fused volume's to a display's rounding, the hue follows uptake."""

import colorsys

import numpy as np
import pytest
from matplotlib import colormaps

from utils.colour import MAPS, colour_map
from utils.errors import InputError

GREYS = np.linspace(0, 1, 256)


def lightness(srgb: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB in [0, 1], D65; written from the standards, independent of `utils.colour`."""
    srgb = np.asarray(srgb, dtype=np.float64)
    linear = np.where(srgb > 0.04045, ((srgb + 0.055) / 1.055) ** 2.4, srgb / 12.92)
    y = 0.2126 * linear[..., 0] + 0.7152 * linear[..., 1] + 0.0722 * linear[..., 2]
    return np.where(y > 216 / 24389, 116 * np.cbrt(y) - 16, 24389 / 27 * y)


@pytest.mark.parametrize("name", MAPS)
def test_the_lightness_is_that_of_the_grey_picture(name):
    fused, pet = np.meshgrid(GREYS, GREYS)
    rgb = colour_map(name).paint(fused, pet)
    wanted = lightness(np.repeat(fused[..., None], 3, axis=-1))
    # The step of an 8-bit grey is 0.4 of L*; half a step of a green is 0.18.
    assert np.abs(lightness(rgb / 255) - wanted).max() < 0.3


@pytest.mark.parametrize("name", MAPS)
def test_no_uptake_is_grey_and_black_and_white_stay(name):
    colours = colour_map(name)
    grey = colours.paint(GREYS, np.zeros(256))
    assert (grey == np.arange(256)[:, None]).all()
    ends = colours.paint(np.array([0.0, 1.0]), np.array([0.7, 0.7]))
    assert (ends == [[0, 0, 0], [255, 255, 255]]).all()


def test_saturation_of_hot_rises_to_its_white_end_and_the_hue_runs_from_red_to_yellow():
    rgb = colour_map("hot").paint(np.full(256, 0.4), GREYS)
    greyness = rgb.min(axis=1)[::16].astype(int)  # the weakest channel
    assert (np.diff(greyness) < 0).all() and rgb[-1].min() == 0
    hues = [colorsys.rgb_to_hsv(*(colour / 255))[0] * 360 for colour in rgb[64::16]]
    assert all(after > before - 2 for before, after in zip(hues, hues[1:], strict=False))
    assert hues[0] < 5 and hues[-1] == pytest.approx(60, abs=2)


def test_values_beyond_the_window_count_as_its_ends():
    colours = colour_map("hot")
    fused, pet = np.array([-1, 2, np.nan, 0.5]), np.array([0.5, 0.5, 0.5, np.nan])
    inside = colours.paint(np.array([0, 1, 0, 0.5]), np.array([0.5, 0.5, 0.5, 0]))
    assert (colours.paint(fused, pet) == inside).all()
    over = colours.paint(np.array([0.5, 0.5]), np.array([7, -3]))
    assert (over == colours.paint(np.array([0.5, 0.5]), np.array([1, 0]))).all()


@pytest.mark.parametrize("scale", [1, 255])
def test_a_table_of_ones_own(tmp_path, scale):
    table = colormaps["viridis"](np.linspace(0, 1, 256))[:, :3] * scale
    path = tmp_path / "mine.txt"
    lines = ["# red green blue", *(", ".join(f"{cell:.6f}" for cell in row) for row in table)]
    path.write_text("\n".join(lines) + "\n")
    own, named = colour_map(str(path)), colour_map("viridis")
    np.testing.assert_allclose(own.table, named.table, atol=1e-5)
    assert own.name == "mine"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 0 0\n1 2\n", "line 2"),
        ("0 0 0\n1 1 red\n", "line 2"),
        ("0 0 0\n1 1 256\n", "line 2"),
        ("0 0 0\n1 1 nan\n", "line 2"),
        ("0 0 0\n", "1 colours"),
        ("", "0 colours"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, text, words):
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        colour_map(str(path))


def test_an_unknown_map_is_refused_with_the_names():
    with pytest.raises(InputError, match="jet.*hot.*cividis"):
        colour_map("jet")
