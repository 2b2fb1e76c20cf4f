"""Colour of a fusion: the fused volume is the luminance, the PET's uptake the hue.

A pixel has exactly the luminance (CIE Y of sRGB) that the grey picture has at the same place: who
turns the colour picture to grey gets the grey picture back. In linear light, where luminance is a
weighted sum, it is

    (1 - s) grey + s hue,    hue scaled to the luminance of grey,

with the hue of the map's colour for the uptake, grey and white taken off, and s that colour's
saturation times the uptake: no uptake has no colour, whatever a map begins with. From the map's
most saturated colour on the saturation of the map counts as reached: at the white end of "hot" the
hottest voxels would else be as grey as the cold ones. Where the screen has no red as bright as the
grey, s is lowered until it has: luminance wins over saturation, black and white have no colour.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from matplotlib import colormaps

from utils.errors import InputError
from utils.text import read_text

MAPS = ("hot", "inferno", "magma", "plasma", "viridis", "cividis")  # none of them a rainbow
LEVELS = 256  # of grey and of uptake
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of linear red, green, blue (IEC 61966-2-1)
_LEAST_CHROMA = 0.02  # below it a colour has no hue of its own
_MOST_ROWS = 65536  # of a table


@dataclass(frozen=True, eq=False)
class ColourMap:
    """A map from uptake to colour.

    Attributes:
        name: for captions.
        table: (256, 3) sRGB in [0, 1], least uptake first.
    """

    name: str
    table: np.ndarray

    @cached_property
    def fused(self) -> np.ndarray:
        """(256 uptakes, 256 greys, 3) uint8 sRGB: the colour of every uptake at every grey."""
        strongest = self.table.max(axis=1)
        weakest = self.table.min(axis=1)
        chroma = strongest - weakest
        last = np.where(chroma > _LEAST_CHROMA, np.arange(LEVELS), 0)
        last = np.maximum.accumulate(last)  # the last colour that had a hue
        hue = (self.table - weakest[:, None]) / np.maximum(chroma, 1e-12)[:, None]
        hue = to_linear(hue[last])
        peak = int(chroma.argmax())
        saturation = np.where(np.arange(LEVELS) < peak, chroma, chroma[peak])
        saturation *= np.linspace(0, 1, LEVELS)

        grey = to_linear(np.linspace(0, 1, LEVELS))  # linear light of a grey is its luminance
        luminance = np.maximum(hue @ LUMINANCE, 1e-12)
        scaled = hue[:, None] / luminance[:, None, None] * grey[:, None]  # uptakes, greys, 3
        room = (1 - grey) / np.maximum(scaled.max(axis=-1) - grey, 1e-12)
        share = np.minimum(saturation[:, None], room)[..., None]
        linear = (1 - share) * grey[:, None] + share * scaled
        return np.round(to_srgb(linear) * 255).astype(np.uint8)

    def paint(self, fused: np.ndarray, pet: np.ndarray) -> np.ndarray:
        """The colours of a fused image of any shape.

        Args:
            fused, pet: of one shape, in [0, 1]. Values beyond count as the nearer end, and NaN as
                0: black where nothing is fused, grey where there is no PET.

        Returns:
            fused.shape + (3,) uint8 sRGB.
        """
        return self.fused[to_levels(pet), to_levels(fused)]


def to_levels(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] as the 256 levels of a display; beyond: the nearer end; NaN: 0."""
    return np.round(np.clip(np.nan_to_num(values), 0, 1) * (LEVELS - 1)).astype(np.uint8)


def to_linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] -> linear light in [0, 1]."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] -> sRGB in [0, 1]; rounding beyond the ends is cut off."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def colour_map(name: str = "hot") -> ColourMap:
    """A map by its name, or a file with the reader's own.

    Args:
        name: one of MAPS, or a text file of lines `red green blue`, least uptake first, either all
            in 0 to 1 or in 0 to 255; `#` begins a comment. Colours between lines are interpolated.

    Raises:
        InputError: neither, or a table that cannot be read.
    """
    if name in MAPS:
        return ColourMap(name, colormaps[name](np.linspace(0, 1, LEVELS))[:, :3])
    path = Path(name)
    if not path.is_file():
        remedy = f"name one of {', '.join(MAPS)}, or a file of lines `red green blue`"
        raise InputError("--colour", f"no colour map {name}", remedy)
    rows = _read_rows(path)
    places = np.linspace(0, len(rows) - 1, LEVELS)
    channels = [np.interp(places, np.arange(len(rows)), channel) for channel in rows.T]
    return ColourMap(path.stem, np.stack(channels, axis=1))


def _read_rows(path: Path) -> np.ndarray:
    """The colours of a table file, (rows, 3) in [0, 1].

    Raises:
        InputError: a line that is not three numbers from 0 to 255, or less than two lines.
    """
    remedy = "write lines `red green blue`, all in 0 to 1 or in 0 to 255"
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        cells = re.split(r"[\s,;]+", line.split("#")[0].strip())
        if cells == [""]:
            continue
        try:
            rows.append([float(cell) for cell in cells])
        except ValueError as error:
            raise InputError(path, f"line {number}: {error}", remedy) from error
        if len(cells) != 3 or not all(0 <= value <= 255 for value in rows[-1]):
            problem = f"line {number}: no three numbers from 0 to 255"
            raise InputError(path, problem, remedy)
    if not 2 <= len(rows) <= _MOST_ROWS:
        raise InputError(path, f"{len(rows)} colours", f"give 2 to {_MOST_ROWS}")
    table = np.array(rows)
    return table if table.max() <= 1 else table / 255
