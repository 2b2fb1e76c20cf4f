"""Pictures of a fusion: MRI, PET, fused and colour in three planes, radiological convention.

Figures are plain `Figure` objects on the Agg canvas: nothing is registered with pyplot, so they can
be made in any thread, need no display, and are freed like any other object.
"""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.text import Text

from utils.colour import ColourMap, colour_map
from utils.files import replacing
from utils.planes import PLANES, plane_of

COLUMNS = ("MRI", "PET", "fused", "colour")
PANEL_INCHES = 2.6  # the longest side of the volume on paper
AS_WRITTEN = {"parse_math": False}  # of names from outside, in which a $ is no formula
# Of Linux, Windows and macOS, with the Chinese, Japanese and Korean letters that DejaVu lacks.
_LETTERS_OF_EAST_ASIA = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "Microsoft YaHei",
    "SimHei",
    "Malgun Gothic",
    "PingFang SC",
    "Hiragino Sans GB",
    "Heiti TC",
    "Arial Unicode MS",
)
HEADER_INCHES, FOOTER_INCHES, GAP_INCHES = 0.30, 0.48, 0.05
HOT = colour_map("hot")


def fusion_figure(
    mri: np.ndarray,
    pet: np.ndarray,
    fused: np.ndarray,
    voxel_mm: Sequence[float] = (1.0, 1.0, 1.0),
    title: str | None = None,
    position: Sequence[int] | None = None,
    colours: ColourMap = HOT,
) -> Figure:
    """Three planes (rows) of MRI, PET, fused and colour (columns), in radiological convention.

    Colour is the fused volume's luminance with the hue of the PET's uptake, see `utils.colour`.

    Axial and coronal have the patient's right at the image's left; sagittal has anterior at the
    left; anterior (axial) and superior are up. All planes share one scale in mm. Grey values and
    PET are shown in the fixed window [0, 1], so that two pictures can be compared by eye.

    Args:
        mri, pet, fused: (X, Y, Z) arrays in RAS+ order, intensities in [0, 1]; values beyond are
            shown as the nearer end.
        voxel_mm: voxel edge lengths along X, Y, Z in mm.
        title: a line above the picture.
        position: voxel indices (i, j, k) where the planes cross; by default the centre of mass of
            `mri > 0`.
        colours: of the PET, and of the fused volume in the last column.

    Raises:
        ValueError: arrays that are not three volumes of one shape, a voxel size that is not three
            numbers above 0, or a position outside the volume.
    """
    volumes = [np.asarray(volume, dtype=np.float32) for volume in (mri, pet, fused)]
    shape = volumes[0].shape
    if len(shape) != 3 or any(volume.shape != shape for volume in volumes):
        raise ValueError(f"expected three (X, Y, Z) volumes, got {[v.shape for v in volumes]}")
    if len(voxel_mm) != 3 or not all(0 < edge < np.inf for edge in voxel_mm):
        raise ValueError(f"expected three voxel edges above 0 mm, got {tuple(voxel_mm)}")
    position = _foreground_centre(volumes[0]) if position is None else tuple(map(int, position))
    if len(position) != 3 or not all(0 <= i < n for i, n in zip(position, shape, strict=True)):
        raise ValueError(f"position {position} is outside a volume of shape {shape}")

    extent_mm = [n * float(edge) for n, edge in zip(shape, voxel_mm, strict=True)]
    figure, boxes = _layout(extent_mm, title)
    for row, plane in enumerate(PLANES):
        slices = [plane_of(volume, PLANES[plane][0], position) for volume in volumes]
        for column, name in enumerate(COLUMNS):
            axes = figure.add_axes(boxes[row][column], label=f"{plane} {name}")
            aspect = np.divide(*_size_mm(plane, extent_mm))
            _draw_panel(axes, name, slices, aspect, colours)
            _label_sides(axes, plane)
    where = ", ".join(f"{axis}={i}" for axis, i in zip("ijk", position, strict=True))
    where = f"planes at voxel {where} (RAS) · radiological convention"
    _captions(figure, where, title, colours)
    return figure


def _foreground_centre(mri: np.ndarray) -> tuple[int, ...]:
    """Voxel nearest to the centre of mass of `mri > 0`; of the grid where nothing is above 0."""
    foreground = mri > 0
    if not foreground.any():
        foreground = np.ones_like(foreground)
    counts = [foreground.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    return tuple(round(float(np.average(np.arange(c.size), weights=c))) for c in counts)


def _size_mm(plane: str, extent_mm: Sequence[float]) -> tuple[float, float]:
    """(height, width) of a plane in mm."""
    width, height = (extent_mm[axis] for axis in range(3) if axis != PLANES[plane][0])
    return height, width


def _layout(extent_mm: Sequence[float], title: str | None) -> tuple[Figure, list[list[tuple]]]:
    """An empty black figure, and each panel's box [row][column] in figure fractions, to scale."""
    inches_per_mm = PANEL_INCHES / max(extent_mm)
    sizes = []
    for plane in PLANES:
        height_mm, width_mm = _size_mm(plane, extent_mm)
        sizes.append((height_mm * inches_per_mm, width_mm * inches_per_mm))
    cell = max(max(width for _, width in sizes), 1.6)  # room for the captions of a narrow volume
    header = HEADER_INCHES * (2 if title else 1)
    width = len(COLUMNS) * cell + (len(COLUMNS) + 1) * GAP_INCHES
    height = header + FOOTER_INCHES + sum(h for h, _ in sizes) + len(sizes) * GAP_INCHES
    figure = Figure(figsize=(width, height), facecolor="black")
    FigureCanvasAgg(figure)
    boxes, top = [], height - header
    for panel_height, panel_width in sizes:
        lefts = [GAP_INCHES + i * (cell + GAP_INCHES) for i in range(len(COLUMNS))]
        bottom = top - panel_height
        size = panel_width / width, panel_height / height
        centred = [(left + (cell - panel_width) / 2) / width for left in lefts]
        boxes.append([(left, bottom / height, *size) for left in centred])
        top = bottom - GAP_INCHES
    return figure, boxes


def _draw_panel(
    axes, name: str, slices: Sequence[np.ndarray], aspect: float, colours: ColourMap
) -> None:
    """Show one column's image; `aspect` is the panel's height over its width in mm."""
    mri, pet, fused = slices
    rows, columns = mri.shape
    look = {"aspect": aspect * columns / rows, "interpolation": "bilinear"}
    axes.set_axis_off()
    if name == "PET":
        # The map begins at a dark red; where there is nothing, show nothing.
        uptake = np.ma.masked_less_equal(pet, 0)
        axes.imshow(uptake, cmap=ListedColormap(colours.table), vmin=0, vmax=1, **look)
    elif name == "colour":
        axes.imshow(colours.paint(fused, pet), **look)
    else:
        axes.imshow(mri if name == "MRI" else fused, cmap="gray", vmin=0, vmax=1, **look)


def _label_sides(axes, plane: str) -> None:
    """Letters of the patient's sides in the upper corners, which a head leaves empty."""
    left, right = PLANES[plane][1][:2]
    look = {"transform": axes.transAxes, "color": "white", "fontsize": 9, "va": "top"}
    axes.text(0.02, 0.98, left, ha="left", **look)
    axes.text(0.98, 0.98, right, ha="right", **look)


def _captions(figure: Figure, where: str, title: str | None, colours: ColourMap) -> None:
    """Column names and title above, windows, plane positions and the PET colour bar below."""
    width, height = figure.get_size_inches()
    cell = (width - GAP_INCHES) / len(COLUMNS)
    look = {"color": "white", "fontsize": 11, "ha": "center", "va": "center"}
    top = height - (HEADER_INCHES * 1.5 if title else HEADER_INCHES * 0.5)
    for column, name in enumerate(COLUMNS):
        centre = (GAP_INCHES / 2 + (column + 0.5) * cell) / width
        figure.text(centre, top / height, name, **look)
    if title:
        figure.text(0.5, 1 - HEADER_INCHES * 0.5 / height, title, **look, **AS_WRITTEN)
    small = {"color": "0.8", "fontsize": 8, "va": "center"}
    left = 2 * GAP_INCHES / width
    figure.text(left, 0.32 / height, where, **small)
    window = f"window: all [0, 1] · PET {colours.name} · colour: light is fused, hue is PET"
    figure.text(left, 0.14 / height, window, **small)

    left = 3 * cell
    box = (left + 0.3) / width, 0.27 / height, (cell - 0.6) / width, 0.09 / height
    bar = figure.add_axes(box)
    scale = ScalarMappable(Normalize(0, 1), ListedColormap(colours.table))
    figure.colorbar(scale, cax=bar, orientation="horizontal", ticks=[0, 0.5, 1])
    bar.tick_params(colors="0.8", labelsize=7, length=2, pad=1)
    figure.text((left + 0.2) / width, 0.315 / height, "PET", ha="right", **small)


# Many subjects, many methods ---------------------------------------------------------------------

GRID_INCHES = 1.6  # the longest side of a subject's head on paper
SIDE_INCHES = 0.32  # margin for the subjects' names
SUBJECT_GAP_INCHES = 3 * GAP_INCHES
NOTE = (
    "one grey window [0, 1] for all · radiological convention · planes through the centre of the "
    "MRI"
)

Planes = dict[str, np.ndarray]  # plane -> (rows, columns), first row at the top


def planes_through_centre(mri: np.ndarray, volumes: dict[str, np.ndarray]) -> dict[str, Planes]:
    """Three planes of each volume through the centre of the MRI's foreground, cut to its box.

    Args:
        mri: (X, Y, Z) in RAS+ order, foreground above 0.
        volumes: {name: volume of the same shape}.
    """
    box, position = [], []
    for axis, centre in enumerate(_foreground_centre(mri)):
        filled = np.flatnonzero((mri > 0).any(axis=tuple({0, 1, 2} - {axis})))
        low, high = (filled[0], filled[-1] + 1) if filled.size else (0, mri.shape[axis])
        box.append(slice(low, high))
        position.append(int(np.clip(centre - low, 0, high - low - 1)))
    planes = {}
    for name, volume in volumes.items():
        cut = volume[tuple(box)]
        planes[name] = {plane: plane_of(cut, PLANES[plane][0], position) for plane in PLANES}
    return planes


def comparison_figure(
    subjects: dict[str, dict[str, Planes]],
    columns: dict[str, str],
    voxel_mm: dict[str, Sequence[float]],
) -> Figure:
    """Subjects x methods: three planes of each subject (rows), each volume a column, one window.

    Radiological convention as in `fusion_figure`. The planes of one subject share a scale in mm.

    Args:
        subjects: {subject: {volume: its planes}}; a volume that is missing leaves its place empty.
        columns: {volume: title above its column}.
        voxel_mm: {subject: voxel edge lengths along X, Y, Z in mm}.
    """
    sizes = {}
    for name, volumes in subjects.items():
        sizes[name] = _plane_inches(next(iter(volumes.values())), voxel_mm[name])
    panels = [size for planes in sizes.values() for size in planes.values()]
    cell = max(width for _, width in panels)
    width = SIDE_INCHES + len(columns) * (cell + GAP_INCHES) + GAP_INCHES
    rows = sum(height + GAP_INCHES for height, _ in panels)
    gaps = SUBJECT_GAP_INCHES * len(subjects)
    height = HEADER_INCHES * 1.2 + rows + gaps + 0.25
    figure = Figure(figsize=(width, height), facecolor="black")
    FigureCanvasAgg(figure)
    lefts = [SIDE_INCHES + i * (cell + GAP_INCHES) for i in range(len(columns))]
    for left, title in zip(lefts, columns.values(), strict=True):
        look = {"color": "white", "fontsize": 9, "ha": "center", "va": "center"} | AS_WRITTEN
        figure.text((left + cell / 2) / width, 1 - 0.6 * HEADER_INCHES / height, title, **look)
    top = height - HEADER_INCHES * 1.2
    for name, volumes in subjects.items():
        shown = {title: volumes.get(title, {}) for title in columns}
        bottom = _draw_subject(figure, name, shown, sizes[name], lefts, cell, top)
        middle = (top + bottom + SUBJECT_GAP_INCHES) / 2
        look = {"color": "white", "fontsize": 10, "rotation": 90, "ha": "center", "va": "center"}
        look |= AS_WRITTEN
        figure.text(0.5 * SIDE_INCHES / width, middle / height, name, **look)
        top = bottom
    figure.text(SIDE_INCHES / width, 0.12 / height, NOTE, color="0.8", fontsize=8, va="center")
    return figure


def _draw_subject(
    figure: Figure,
    name: str,
    volumes: dict[str, Planes],
    sizes: dict[str, tuple[float, float]],
    lefts: Sequence[float],
    cell: float,
    top: float,
) -> float:
    """Draw a subject's planes below `top`, a column for each volume; returns where the next begins.

    Args:
        sizes: {plane: (height, width) on paper}; this and the rest are in inches.
        lefts, cell: where the columns begin, and their width.
    """
    page_width, page_height = figure.get_size_inches()
    for plane, (height, width) in sizes.items():
        top -= height
        for left, (key, planes) in zip(lefts, volumes.items(), strict=True):
            place = left + (cell - width) / 2
            box = (
                place / page_width,
                top / page_height,
                width / page_width,
                height / page_height,
            )
            _draw_grey(figure, box, planes.get(plane), f"{name} {plane} {key}")
        # In the corners of the first cell, which is wider than a narrow head.
        left_letter, right_letter = PLANES[plane][1][:2]
        look = {"color": "white", "fontsize": 8, "va": "top"}
        upper = (top + height) / page_height
        figure.text(lefts[0] / page_width, upper, left_letter, ha="left", **look)
        figure.text((lefts[0] + cell) / page_width, upper, right_letter, ha="right", **look)
        top -= GAP_INCHES
    return top - SUBJECT_GAP_INCHES


def _plane_inches(planes: Planes, voxel_mm: Sequence[float]) -> dict[str, tuple[float, float]]:
    """{plane: (height, width) on paper}, the longest side of all being GRID_INCHES."""
    sizes = {}
    for plane, image in planes.items():
        across, up = (voxel_mm[axis] for axis in range(3) if axis != PLANES[plane][0])
        sizes[plane] = image.shape[0] * up, image.shape[1] * across
    scale = GRID_INCHES / max(side for size in sizes.values() for side in size)
    return {plane: (height * scale, width * scale) for plane, (height, width) in sizes.items()}


def _draw_grey(figure: Figure, box: tuple, image: np.ndarray | None, label: str) -> None:
    axes = figure.add_axes(box, label=label)
    axes.set_axis_off()
    if image is None:
        axes.text(0.5, 0.5, "not there", color="0.5", fontsize=8, ha="center", va="center")
        return
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="bilinear")


def _find_letters(figure: Figure) -> None:
    """Let texts with letters beyond ASCII take those from whatever font is installed."""
    # It would warn of a font without the normal weight.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    installed = {font.name for font in fontManager.ttflist}
    further = [name for name in _LETTERS_OF_EAST_ASIA if name in installed]
    for text in figure.findobj(Text):
        if not text.get_text().isascii():
            text.set_fontfamily([*text.get_fontfamily(), *further])


def save_figure(path: Path, figure: Figure, dpi: int = 110) -> None:
    """Write a figure as a PNG, beside its place first and then renamed into it.

    Raises:
        InputError: the file cannot be written.
    """
    _find_letters(figure)
    with replacing(path, "give another path") as part, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of names; boxes are drawn for them
        figure.savefig(part, format="png", dpi=dpi, facecolor=figure.get_facecolor())
