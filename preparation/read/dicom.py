"""One DICOM image as an array in RAS+ order, in real units, frames in order of time.

What lies where is decided by headers alone (`dicom_planes`, `dicom_geometry`); everything that
cannot be done right is refused with one line. pydicom is imported only when a series is read.
"""

import itertools
import math
import re
import warnings
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from data.volume import MOST_VOXELS, check_finite, check_not_blank
from preparation.read.dicom_geometry import stack
from preparation.read.dicom_header import DOWNLOAD_AGAIN
from preparation.read.dicom_planes import (
    Plane,
    choose_image,
    drop_copies,
    find_planes,
    folder_of,
)
from utils.errors import InputError
from utils.optional import need

_AVERAGED = re.compile(r"averag|(?<![a-z])(avg|mean)(?![a-z])", re.IGNORECASE)
DOWNLOAD_OR_ALLOW = (
    f"{DOWNLOAD_AGAIN} or, if they were cut out of a longer scan on purpose, pass --fewer-slices"
)
_UNCOMPRESS = "write it without compression, for example with dcmdjpeg or gdcmconv --raw"
# DICOM PS3.5, A.4.13: each frame is a DEFLATE stream of its own.
_DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
# Its decoder in Rust prints a backtrace about damaged data, pydicom's own is silent.
_RLE = "1.2.840.10008.1.2.5"
# Times and durations of planes that differ by less are the same.
_SAME_MS = 1.0
_FLOATING = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}  # bits


@dataclass(frozen=True, eq=False)
class Series:
    """One image read from DICOM.

    Attributes:
        array: (X, Y, Z), or (X, Y, Z, T) in order of time when there are several frames; float32,
            RAS+ order, in `units`, not clipped.
        affine: (4, 4) float64, voxel index of `array` -> RAS+ millimetres.
        frame_durations: seconds of each frame, None when the headers do not say.
        units: (0054,1001) such as BQML; "" when the headers name none.
        description: SeriesDescription.
        slices: number of slice positions.
        slice_axis: axis of `array` along which they lie.
        notes: what the user should know.
    """

    array: np.ndarray
    affine: np.ndarray
    frame_durations: tuple[float, ...] | None
    units: str
    description: str
    slices: int
    slice_axis: int
    notes: tuple[str, ...]

    @property
    def frames(self) -> int:
        """Number of time frames, 1 for a volume."""
        return self.array.shape[3] if self.array.ndim == 4 else 1


def read_series(
    files: Sequence[Path],
    modality: str | None,
    image_id: str | None = None,
    description: str = "",
    fewer_slices: bool = False,
) -> Series:
    """Read the one image that lies in these files.

    Args:
        files: of the series in any order; folders among them are walked; what is no DICOM is passed
            over.
        modality: "MRI" or "PET"; None for any modality, by the rules of MRI.
        image_id: ADNI's id, decides when file names carry several.
        description: what the download calls the image, besides its own SeriesDescription.
        fewer_slices: whether there may be fewer slices than a PET's headers promise.

    Returns:
        the image. Several volumes at one place are frames when their times (in MRI also instance
        numbers) differ.

    Raises:
        InputError: no image, several, or one that cannot be converted right (see the functions
            called here).
    """
    where = folder_of(files)
    with warnings.catch_warnings():
        # pydicom's remarks on single values; what matters is checked here
        warnings.simplefilter("ignore")
        planes, notes = find_planes(files)
        planes, choice = choose_image(planes, modality, image_id, where)
        planes, copies = drop_copies(planes)
        places, affine = stack(planes, where)
        pet = planes[0].text("Modality") == "PT" if modality is None else modality == "PET"
        own_description = planes[0].text("SeriesDescription")
        averaged = bool(_AVERAGED.search(f"{own_description} {description}"))
        places, durations, frame_notes = _order_frames(places, pet, averaged, fewer_slices, where)
        slopes = _read_slopes(places, pet, where)
        units = planes[0].text("Units") if pet else ""
        array = _read_values(places, slopes)
    for number, frame in enumerate(np.moveaxis(array, 3, 0), start=1):
        name = f"frame {number}" if array.shape[3] > 1 else "it"
        check_finite(where, frame, DOWNLOAD_AGAIN, name)
    check_not_blank(where, array)
    if pet and units != "BQML":
        frame_notes.append(f"the unit of the PET is {units or 'unknown'}, not BQML")
    if array.shape[3] == 1:
        array = array[..., 0]
    orientation = io_orientation(affine)
    return Series(
        array=np.ascontiguousarray(apply_orientation(array, orientation)),
        affine=affine @ inv_ornt_aff(orientation, array.shape[:3]),
        frame_durations=durations,
        units=units,
        description=own_description,
        slices=len(places),
        slice_axis=int(orientation[2, 0]),
        notes=(*notes, *choice, *copies, *frame_notes),
    )


# Frames ------------------------------------------------------------------------------------------


def _order_frames(
    places: list[list[Plane]], pet: bool, averaged: bool, fewer_slices: bool, where: Path
) -> tuple[list[list[Plane]], tuple[float, ...] | None, list[str]]:
    """Each position's planes in order of time, the frames' durations in s, and remarks."""
    notes = []
    if pet:
        notes += _check_slices(places, fewer_slices, where)
        notes += _check_frames(places, averaged, where)
    if len(places[0]) > 1:
        places = _sort_by_time(places, pet, where)
    return places, _durations(places, where) if pet else None, notes


def _check_slices(places: list[list[Plane]], fewer_slices: bool, where: Path) -> list[str]:
    """Compare the positions found with the number that PET headers promise."""
    first = places[0][0]
    slices = first.number("NumberOfSlices")
    if slices is None and not first.items:
        return ["the headers name no number of slices: missing end slices cannot be seen"]
    if slices is None or slices == len(places):
        return []
    if len(places) > slices:
        raise InputError(where, f"{len(places)} slices, not {slices:g}", DOWNLOAD_AGAIN)
    found = f"{len(places)} of {slices:g} slices"
    if fewer_slices:
        return [f"{found} are there, as allowed"]
    raise InputError(where, found, DOWNLOAD_OR_ALLOW)


def _check_frames(places: list[list[Plane]], averaged: bool, where: Path) -> list[str]:
    """Compare the frames found with the number that PET headers promise."""
    first, notes = places[0][0], []
    frames = first.number("NumberOfTimeSlices")
    if frames is None and first.text("SeriesType").startswith("STATIC"):
        frames = 1
    found = len(places[0])
    if frames is not None and frames != found:
        if found > 1 or not averaged:
            promised = f"time frames promised by the headers: {frames:g}"
            problem = f"planes at each position: {found}, {promised}"
            raise InputError(where, problem, DOWNLOAD_AGAIN)
        spoken = f"the headers speak of {frames:g} time frames"
        notes.append(f"{spoken}; taken as their average, as described")
    return notes


def _sort_by_time(places: list[list[Plane]], pet: bool, where: Path) -> list[list[Plane]]:
    """Sort by the first of the possible frame keys that tells the planes at every position apart.

    A PET's frames must have the same times at all positions. In MRI, where slices are acquired one
    by one, the order counts, and the instance number does in the end.
    """
    by_number = _image_index if pet else _instance
    for key in (_reference_time, _acquired, _temporal_position, by_number):
        if _tells_apart(key, places, pet):
            return [sorted(place, key=key) for place in places]
    count = len(places[0])
    problem = f"{count} planes at each slice position and no frame times that tell them apart"
    raise InputError(where, problem, "keep one copy of the series, or choose the averaged image")


def _tells_apart(key: Callable, places: list[list[Plane]], same_everywhere: bool) -> bool:
    """Whether the planes of every position have different keys, and all positions the same ones."""
    first = None
    for place in places:
        times = [key(plane) for plane in place]
        kinds = {type(time) for time in times}
        if None in times or len(kinds) > 1 or len(set(times)) < len(times):
            return False
        times.sort()
        first = first or times
        if same_everywhere and not all(map(_same_time, times, first)):
            return False
    return True


def _same_time(one: float | str, other: float | str) -> bool:
    """Whether two planes' times agree; numbers as headers round them."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return abs(one - other) < _SAME_MS


def _reference_time(plane: Plane) -> float | str | None:
    time = plane.number("FrameReferenceTime")
    return _instant(plane.text("FrameReferenceDateTime")) if time is None else time


def _acquired(plane: Plane) -> str | None:
    time = plane.text("AcquisitionTime")
    classic = plane.text("AcquisitionDate") + time if time else ""
    return _instant(plane.text("FrameAcquisitionDateTime") or classic)


def _instant(text: str) -> str | None:
    """A time as text without the zeros at the end of its fraction; None for none."""
    return (text.rstrip("0").rstrip(".") if "." in text else text) or None


def _temporal_position(plane: Plane) -> float | None:
    index = plane.number("TemporalPositionIndex")
    return plane.number("TemporalPositionIdentifier") if index is None else index


def _instance(plane: Plane) -> float | None:
    return plane.number("InstanceNumber")


def _image_index(plane: Plane) -> int | None:
    """Frame number by ImageIndex = (frame - 1) * NumberOfSlices + slice (DICOM PS3.3, C.8.9.4)."""
    index, slices = plane.number("ImageIndex"), plane.number("NumberOfSlices")
    return None if index is None or not slices else int((index - 1) // slices)


def _durations(places: list[list[Plane]], where: Path) -> tuple[float, ...] | None:
    """Seconds of each frame; None where a plane does not say."""
    durations = []
    for frame in zip(*places, strict=True):
        lengths = [_duration_ms(plane) for plane in frame]
        known = [length for length in lengths if length is not None]
        differ = 0 < len(known) < len(lengths)
        differ = differ or (known and max(known) - min(known) >= _SAME_MS)
        if differ and len(places[0]) > 1:
            problem = f"the durations of the planes of frame {len(durations) + 1} differ"
            raise InputError(where, problem, "choose the averaged image of this scan")
        durations.append(lengths[0])
    if any(length is None or length <= 0 for length in durations):
        return None
    return tuple(length / 1000 for length in durations)


def _duration_ms(plane: Plane) -> float | None:
    return plane.number("ActualFrameDuration") or plane.number("FrameAcquisitionDuration")


# Values ------------------------------------------------------------------------------------------


def _read_slopes(
    places: list[list[Plane]], pet: bool, where: Path
) -> dict[Plane, tuple[float, float]]:
    """Each plane's slope and intercept, after checks of all planes.

    In PET every plane needs a slope above 0. MRI usually has none (1 and 0 are taken), but then
    nowhere.
    """
    planes = list(itertools.chain(*places))
    slopes = _read_all(planes, "RescaleSlope", None if pet else 1.0, where)
    intercepts = _read_all(planes, "RescaleIntercept", 0.0, where)
    found = {}
    for plane, slope, intercept in zip(planes, slopes, intercepts, strict=True):
        if slope <= 0:
            raise InputError(plane.file, f"RescaleSlope is {slope:g}", DOWNLOAD_AGAIN)
        found[plane] = slope, intercept
    return found


def _read_all(planes: list[Plane], keyword: str, default: float | None, where: Path) -> list[float]:
    """A number of every plane; the default where no plane has one, if there is a default."""
    values = [plane.number(keyword) for plane in planes]
    missing = [plane for plane, value in zip(planes, values, strict=True) if value is None]
    if not missing:
        return values
    if len(missing) == len(planes) and default is not None:
        return [default] * len(planes)
    counted = f"{len(missing)} of {len(planes)} slices"
    problem = f"{keyword} missing in {counted} ({missing[0].file.name})"
    raise InputError(where, problem, DOWNLOAD_AGAIN)


def _read_values(places: list[list[Plane]], slopes: dict[Plane, tuple[float, float]]) -> np.ndarray:
    """float32 values in real units, by each plane's own slope and intercept."""
    rows, columns = places[0][0].size
    shape = (columns, rows, len(places), len(places[0]))  # columns, rows, positions, frames
    if math.prod(shape) > MOST_VOXELS:
        sides = " x ".join(map(str, shape))
        raise InputError(places[0][0].file, f"the headers promise {sides} voxels", DOWNLOAD_AGAIN)
    values = np.empty(shape, np.float32)
    by_file = defaultdict(list)
    for position, place in enumerate(places):
        for frame, plane in enumerate(place):
            by_file[plane.file].append((position, frame, plane))
    for file, entries in by_file.items():
        stored = _read_pixels(file).reshape(-1, rows, columns)
        for position, frame, plane in entries:
            slope, intercept = slopes[plane]
            scaled = stored[plane.frame].astype(np.float64) * slope + intercept  # rows, columns
            values[:, :, position, frame] = scaled.T
    return values


def _read_pixels(file: Path) -> np.ndarray:
    """The stored values of one file, ([frames,] rows, columns).

    Raises:
        InputError: no pixel data, fewer than promised, or no decoder for the way they are
            compressed.
    """
    pydicom = need("pydicom")
    try:
        content = pydicom.dcmread(file, force=True)
        keyword = next((name for name in ("PixelData", *_FLOATING) if content.get(name)), None)
    except Exception as error:  # whatever a damaged file provokes
        raise InputError(file, "pixel data cut short or damaged", DOWNLOAD_AGAIN) from error
    if keyword is None:
        raise InputError(file, "pixel data missing or cut short", DOWNLOAD_AGAIN)
    syntax = _transfer_syntax(file, content)
    if syntax == _DEFLATED_FRAMES:
        _inflate(file, content)
        syntax = content.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        _check_decoder(file, syntax)
    else:
        _check_length(file, content, keyword)
    if syntax == _RLE:
        content.pixel_array_options(decoding_plugin="pydicom")
    try:
        return content.pixel_array
    except (KeyboardInterrupt, SystemExit):
        raise
    # Each of pydicom's plug-ins raises its own; one in Rust panics, which is no Exception.
    except BaseException as error:
        how = f"{syntax.name} pixel data" if syntax.is_encapsulated else "pixel data"
        raise InputError(file, f"{how} cut short or damaged", DOWNLOAD_AGAIN) from error


def _transfer_syntax(file: Path, content):
    """How the pixels are stored; without a file meta header as the elements were."""
    uid = need("pydicom.uid")
    try:
        if not content.file_meta.get("TransferSyntaxUID"):
            implicit = content.original_encoding[0]
            content.file_meta.TransferSyntaxUID = (
                uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
            )
        syntax = content.file_meta.TransferSyntaxUID
        known = syntax == _DEFLATED_FRAMES or syntax.is_transfer_syntax
    except Exception as error:  # whatever a damaged file provokes
        raise InputError(file, "its transfer syntax cannot be read", DOWNLOAD_AGAIN) from error
    if not known:
        raise InputError(file, f"its transfer syntax {syntax} is unknown", _UNCOMPRESS)
    return syntax


def _inflate(file: Path, content) -> None:
    """Put the deflated frames of a file in its place uncompressed.

    Raises:
        InputError: they are damaged, or more or fewer bytes than the header says.
    """
    encaps, uid = need("pydicom.encaps"), need("pydicom.uid")
    frames = int(content.get("NumberOfFrames") or 1)
    try:
        needed = content.Rows * content.Columns * -(-content.BitsAllocated // 8)
        pixels = []
        for frame in encaps.generate_frames(content.PixelData, number_of_frames=frames):
            pixels.append(zlib.decompressobj(-zlib.MAX_WBITS).decompress(frame, needed + 1))
        whole = len(pixels) == frames and all(len(frame) == needed for frame in pixels)
    except Exception as error:  # whatever a damaged file provokes
        raise InputError(file, "deflated frames cut short or damaged", DOWNLOAD_AGAIN) from error
    if not whole:
        raise InputError(file, "deflated frames cut short or damaged", DOWNLOAD_AGAIN)
    content.PixelData = b"".join(pixels)
    content.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian


def _check_decoder(file: Path, syntax) -> None:
    problem = f"{syntax.name} pixel data and no decoder"
    try:
        available = need("pydicom.pixels").get_decoder(syntax).is_available
    except NotImplementedError as error:  # no package has one
        raise InputError(file, problem, _UNCOMPRESS) from error
    if not available:
        raise InputError(file, problem, 'pip install "pydicom[pixeldata]"', kind="package")


def _check_length(file: Path, content, keyword: str) -> None:
    """Uncompressed pixel data must be as long as the header says."""
    try:
        frames = int(content.get("NumberOfFrames") or 1)
        bits = _FLOATING.get(keyword) or content.BitsAllocated
        needed = content.Rows * content.Columns * frames * -(-bits // 8)
    except Exception as error:  # whatever a damaged file provokes
        problem = "the header does not say how pixels are stored"
        raise InputError(file, problem, DOWNLOAD_AGAIN) from error
    if len(content[keyword].value) < needed:
        problem = f"pixel data cut short ({len(content[keyword].value)} of {needed} bytes)"
        raise InputError(file, problem, DOWNLOAD_AGAIN)
