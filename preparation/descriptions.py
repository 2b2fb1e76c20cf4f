"""What ADNI's names say: subject, date and image id, and what a series description means.

A download has the folders `<subject>/<description>/<date>_<time>/I<image id>/` and files such as
`ADNI_033_S_5198_MR_MT1__N3m_Br_20130510101112131_46_S188088_I372155.dcm`. Descriptions are compared
after every run of other characters than letters and digits has become one `_`, because tables write
`MT1; N3m` for the folder `MT1__N3m`.
"""

import datetime
import re
from dataclasses import dataclass
from pathlib import Path

from data.tracers import FDG, FDG_NAME, is_fdg, is_tracer, other_tracer, plain
from data.tracers import words as _words

SUBJECT = re.compile(r"\d{3}_S_\d{4,5}", re.IGNORECASE)
FILE_NAME = re.compile(
    r"""
    ADNI
    _(?P<subject>\d{3}_S_\d{4,5})
    _(?P<modality>MR|PT|PET)
    _(?P<description>.*?)
    _(?:br_raw|Br)  # as acquired, or processed
    _\d{17}  # time of the upload
    (?:_(?P<number>\d+))?
    (?:_S(?P<series>\d+))?
    (?:_I(?P<image>\d+))?
    (?:[ ]?\(\d+\))?  # saved twice
    \.(?P<suffix>dcm|nii\.gz|nii|v|img|hdr)
    (?:[ ]?\(\d+\))?
    """,
    re.IGNORECASE | re.VERBOSE,
)
XML_NAME = re.compile(r"ADNI_.*_I(?P<image>\d+)\.xml", re.IGNORECASE)
WITHDRAWN = re.compile(r"381_S_10\d{3}")  # all of this site's, for quality

_DATE_FOLDER = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?:[_ T].*)?")
_IMAGE_FOLDER = re.compile(r"I(\d+)", re.IGNORECASE)
_EARLIEST = datetime.date(1990, 1, 1)  # no FDG-PET of ADNI can be older


@dataclass(frozen=True)
class Place:
    """What the folders above a file say; None where they say nothing."""

    subject: str | None = None
    description: str | None = None
    date: datetime.date | None = None
    image_id: str | None = None


def read_place(folder: Path) -> Place:
    """Subject, description, date and image id from a download's folders; absurd dates are none."""
    parts = folder.parts
    subjects = [i for i, part in enumerate(parts) if SUBJECT.fullmatch(part)]
    if not subjects:
        return Place()
    subject, below = parts[subjects[-1]], parts[subjects[-1] + 1 :]

    date, above_date = None, below[:1]
    image_id = None
    for i, part in enumerate(below):
        if match := _DATE_FOLDER.fullmatch(part):
            date, above_date = plausible_date(*map(int, match.groups())), below[:i]
        if match := _IMAGE_FOLDER.fullmatch(part):
            image_id = f"I{match[1]}"
    description = above_date[-1] if above_date else None
    return Place(subject.upper(), description, date, image_id)


def plausible_date(year: int, month: int, day: int) -> datetime.date | None:
    """The date, None when there is no such day, or when it lies before 1990 or in the future."""
    try:
        date = datetime.date(year, month, day)
    except ValueError:
        return None
    tomorrow = datetime.date.today() + datetime.timedelta(days=1)
    return date if _EARLIEST <= date <= tomorrow else None


def matches(pattern: str, description: str) -> bool:
    """Whether the user's pattern asks for this description.

    A regular expression, case ignored, looked for in the description and in its plain form. A
    pattern without regular expression signs is compared in its plain form too, so that texts copied
    from a table match folders.
    """
    text = plain(description)
    for form in (description, text):
        if re.search(pattern, form, re.IGNORECASE):
            return True
    is_text = not re.search(r"[\\\[\](){}*+?^$|]", pattern)
    return is_text and _words(plain(pattern)).search(text) is not None


# MRI ---------------------------------------------------------------------------------------------

_OTHER_MR = _words(
    # planning
    "localizer",
    "localiser",
    "loc",
    "scout",
    "survey",
    "3_plane.*",
    "three_plane.*",
    # results of processing, no intensities
    "mask",
    ".*_mask",
    "segmentation",
    # other contrasts
    "flair",
    ".*flair",
    "t2.*",
    "pd",
    "pd_?t2.*",
    # diffusion, and the maps made of it
    "dti.*",
    "dwi",
    "adc",
    "fa",  # fractional anisotropy
    "trace.*",
    "diffusion.*",
    "fractional.*",
    "tensor.*",
    "average_dc",  # diffusion coefficient
    # functional
    "fmri",
    "rs_?fmri",
    "bold",
    "epi",
    "resting.*",
    "rest",
    "mb",  # multi-band: ADNI 3's fast series, functional and diffusion
    # perfusion
    "asl",
    "pasl",
    "pcasl",
    "perfusion.*",
    "cbf",  # cerebral blood flow
    "relcbf",
    # maps of the scanner's fields
    "field_?map.*",
    "field_mapping",
    "calibration.*",
    # phase images; but "phase_a_b" can be part of a T1's name (phase encoding)
    "phase(?!_[a-z]_[a-z](?:_|$))",
    # vessels and susceptibility
    "swi",
    "tof",
    "angio",
    "mra",
    # a slab through the hippocampus, not the head
    "hippocamp.*",
    "highreshippo.*",
    "hhr",
    # made by the scanner from another series
    "moco.*",  # motion correction
    "mpr_(?:cor|tra|sag|ax).*",  # reformatted planes; MPR alone is ADNI's MPRAGE
)
# The map of the transmit field; "B1 Correction" in the name of a T1 says what was done to it.
_B1_MAP = _words("b1")
_T1 = _words(
    "(?:adni_)?mprage.*",
    ".*mprage.*",
    "mp_?rage",
    "mpr",  # ADNI 1's processed MPRAGE
    "mt1",  # the processed T1 of ADNI GO and 2
    "(?:ir_?)?f?spgr",  # GE's MPRAGE
    "bravo",  # GE, too
    "t1w?",
    "t1_?3d",
    "3d_?t1w?",
    "tfe",  # Philips
)
_LAST_RESORT = _words(
    "repeat.*",
    "rpt",
    "mpr_r",  # MPR-R, the repeated MPRAGE
    "nd",  # no distortion correction
)
_N3 = _words("n3m?")
_FULLY_CORRECTED = "mpr_gradwarp_b1_correction_n3_scaled"


def t1_rank(description: str) -> int | None:
    """How well an MR series suits, 0 best; None for one that is no T1 head.

    0 fully corrected ADNI 1 images (`MPR; GradWarp; B1 Correction; N3; Scaled`), 1 those of ADNI GO
    and 2 (`MT1; GradWarp; N3m`, `MT1; N3m`), 2 others with N3, 3 images as acquired.
    """
    text = plain(description)
    if _OTHER_MR.search(text) or not _T1.search(text):
        return None
    if "b1_correction" not in text and _B1_MAP.search(text):
        return None
    if _FULLY_CORRECTED in text:
        return 0
    if re.match(r"mt1_(?:gradwarp_)?n3m", text):
        return 1
    return 2 if _N3.search(text) else 3


def is_last_resort(description: str) -> bool:
    """Repeated scans (`MPR-R`, `REPEAT`) and those without distortion correction (`_ND`)."""
    return _LAST_RESORT.search(plain(description)) is not None


# PET ---------------------------------------------------------------------------------------------

# Processing versions from most to least wanted. The two co-registered kinds keep the scanner's own
# resolution, and the mean of the dynamic one's frames is the averaged one, so they are one version.
UNIFORM_6MM, UNIFORM, STANDARDIZED = "uniform 6 mm resolution", "uniform resolution", "standardized"
COREGISTERED, RAW = "co-registered", "raw"
PET_VERSIONS = (UNIFORM_6MM, UNIFORM, STANDARDIZED, COREGISTERED, RAW)
# version, rank within it, words of the description
_PROCESSED = (
    (UNIFORM_6MM, 0, "coreg_avg_std_img_and_vox_siz_uniform_6mm_res"),
    (UNIFORM, 0, "coreg_avg_std_img_and_vox_siz_uniform_resolution"),
    (STANDARDIZED, 0, "coreg_avg_standardized_image_and_voxel_size"),
    (COREGISTERED, 0, "co_registered_averaged"),
    (COREGISTERED, 1, "co_registered_dynamic"),
)
_PREFIX = re.compile(r"(.*?)_?(?:coreg_avg|co_registered)_")  # before ADNI's own words
_FDG_PREFIX = re.compile(
    rf"""(?:
    (?: adni\d?  # the study
    | brain  # the part of the body
    | pet
    | 18f  # the isotope alone, also of other tracers, which have their names beside it
    | f18
    | {FDG}
    )_?)*""",
    re.VERBOSE,
)
# CTAC is not among them: it is an emission image corrected by CT.
_NO_EMISSION = _words(
    # maps of attenuation, and the scans that they are made of
    "ac_?map",
    "mu_?map",
    "umap",
    "transmission",
    "tx",
    # planning
    "scout",
    "topogram",
    "localizer",
    # not corrected for attenuation
    "nac(?:stat|dyn)?",  # also BIDS' labels
    "no_?ac",
    "non_?ac",
    "(?:no|non|not|without)_?att(?:en(?:uation)?)?_?corr?(?:ect(?:ed|ion))?",
    "un_?corrected",
    "(?:no|non|not)_?corrected",
    # made of an emission image
    "mip",  # maximum intensity projection
    "mask",
)
_PET_WORDS = _words("pet", FDG)


def pet_version(description: str, wanted: str = FDG_NAME) -> tuple[str, int] | None:
    """(processing version, rank within it) of a PET, None for what `pet_problem` refuses."""
    if pet_problem(description, wanted):
        return None
    text = plain(description)
    for version, rank, words in _PROCESSED:
        if words in text:
            return version, rank
    return RAW, 0


def pet_problem(description: str, wanted: str = FDG_NAME) -> str | None:
    """Why a PET series is no image of a tracer by its description: another one, or no emission.

    Processed FDG series have no prefix before ADNI's description, every other tracer has; site
    texts (raw series) name what they like. None where nothing speaks against it.
    """
    text = plain(description)
    is_named = not is_fdg(wanted) and is_tracer(description, wanted)
    if other := other_tracer(description, wanted):
        return f"tracer is {other}, not {wanted}"
    if _NO_EMISSION.search(text):
        return f"no {wanted} emission image by its description"
    processed = _PREFIX.match(f"{text}_")
    is_of_fdg = bool(processed and _FDG_PREFIX.fullmatch(processed[1]))
    if is_fdg(wanted):
        return f"tracer is {processed[1]}, not {wanted}" if processed and not is_of_fdg else None
    if not is_named and (is_of_fdg or is_fdg(description)):
        return f"tracer is FDG, not {wanted}"
    if not is_named and processed:
        return f"tracer is {processed[1]}, not {wanted}"
    return None


def looks_like_pet(description: str) -> bool:
    """Whether a description is one that only PET series have."""
    text = plain(description)
    is_processed = any(words in text for _, _, words in _PROCESSED)
    return is_processed or _PET_WORDS.search(text) is not None
