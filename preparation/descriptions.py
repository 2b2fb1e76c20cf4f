"""What ADNI's names say: subject, kind of file, date and image id, and what a series description
means.

A download has the folders `<subject>/<description>/<date>_<time>/I<image id>/` and files such as
`ADNI_033_S_5198_MR_MT1__N3m_Br_20130510101112131_46_S188088_I372155.dcm`. Descriptions are compared
after every run of other characters than letters and digits has become one `_`, because tables write
`MT1; N3m` for the folder `MT1__N3m`.
"""

import datetime
import re
from dataclasses import dataclass
from pathlib import Path

SUBJECT = re.compile(r"\d{3}_S_\d{4,5}", re.IGNORECASE)
FILE_NAME = re.compile(
    r"ADNI_(?P<subject>\d{3}_S_\d{4,5})_(?P<modality>MR|PT|PET)_(?P<description>.*?)_(?:br_raw|Br)_\d{17}"
    r"(?:_(?P<number>\d+))?(?:_S(?P<series>\d+))?(?:_I(?P<image>\d+))?\.(?P<suffix>dcm|nii\.gz|nii|v|img|hdr)",
    re.IGNORECASE,
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
    """Subject, description, date and image id from the folders of a download; absurd dates are
    none.
    """
    parts = folder.parts
    at = max((i for i, part in enumerate(parts) if SUBJECT.fullmatch(part)), default=None)
    if at is None:
        return Place()
    below = parts[at + 1 :]
    dates = [i for i, part in enumerate(below) if _DATE_FOLDER.fullmatch(part)]
    date = (
        plausible_date(*map(int, _DATE_FOLDER.fullmatch(below[dates[-1]]).groups()))
        if dates
        else None
    )
    named = below[: dates[-1]] if dates else below[:1]
    images = [match for part in below if (match := _IMAGE_FOLDER.fullmatch(part))]
    image = f"I{images[-1][1]}" if images else None
    return Place(parts[at].upper(), named[-1] if named else None, date, image)


def plausible_date(year: int, month: int, day: int) -> datetime.date | None:
    """The date, None when there is no such day, or when it lies before 1990 or in the future."""
    try:
        date = datetime.date(year, month, day)
    except ValueError:
        return None
    tomorrow = datetime.date.today() + datetime.timedelta(days=1)
    return date if _EARLIEST <= date <= tomorrow else None


def plain(description: str) -> str:
    """A description for comparing: small letters and digits, everything between them one `_`."""
    return re.sub("[^a-z0-9]+", "_", description.lower()).strip("_")


def matches(pattern: str, description: str) -> bool:
    """Whether the user's pattern asks for this description.

    A regular expression, case ignored, looked for in the description and in its plain form. A
    pattern without regular expression signs is compared in its plain form too, so that texts copied
    from a table match folders.
    """
    forms = (description, plain(description))
    if any(re.search(pattern, form, re.IGNORECASE) for form in forms):
        return True
    is_text = not re.search(r"[\\\[\](){}*+?^$|]", pattern)
    return is_text and _has(plain(pattern), forms[1])


def _has(words: str, text: str) -> bool:
    """Whether `words` (alternatives between `|`) are a run of whole words of a plain description."""
    return re.search(f"(?:^|_)(?:{words})(?:_|$)", text) is not None


# MRI ---------------------------------------------------------------------------------------------

_OTHER_MR = (
    "localizer|localiser|loc|scout|survey|3_plane.*|three_plane.*|mask|.*_mask|flair|.*flair|t2.*|pd|pd_?t2.*|"
    "dti.*|dwi|adc|fa|trace.*|diffusion.*|fractional.*|tensor.*|fmri|rs_?fmri|bold|epi|resting.*|rest|mb|"
    "asl|pasl|pcasl|perfusion.*|cbf|relcbf|field_?map.*|field_mapping|b1|calibration.*|phase(?!_[a-z]_[a-z](?:_|$))|swi|tof|angio|mra|"
    "hippocamp.*|highreshippo.*|hhr|moco.*|average_dc|segmentation|mpr_(?:cor|tra|sag|ax).*"
)
_T1 = (
    r"(?:adni_)?mprage.*|mp_?rage|mpr|mt1|(?:ir_?)?f?spgr|bravo|t1w?|t1_?3d|3d_?t1w?|tfe|.*mprage.*"
)
_LAST_RESORT = r"repeat.*|mpr_r|nd|rpt"


def t1_rank(description: str) -> int | None:
    """How well an MR series suits, 0 best; None for one that is no T1 head.

    0 fully corrected ADNI 1 images (`MPR; GradWarp; B1 Correction; N3; Scaled`), 1 those of ADNI GO
    and 2 (`MT1; GradWarp; N3m`, `MT1; N3m`), 2 others with N3, 3 images as acquired.
    """
    text = plain(description)
    corrected = "mpr_gradwarp_b1_correction_n3_scaled" in text
    if _has(_OTHER_MR.replace("|b1|", "|") if "b1_correction" in text else _OTHER_MR, text):
        return None
    if not _has(_T1, text):
        return None
    if corrected:
        return 0
    if re.match(r"mt1_(?:gradwarp_)?n3m", text):
        return 1
    return 2 if _has("n3m?", text) else 3


def is_last_resort(description: str) -> bool:
    """Repeated scans (`MPR-R`, `REPEAT`) and those without distortion correction (`_ND`)."""
    return _has(_LAST_RESORT, plain(description))


# PET ---------------------------------------------------------------------------------------------

# Processing versions from most to least wanted. The two co-registered kinds keep the scanner's own
# resolution, and the mean of the dynamic one's frames is the averaged one, so they are one version.
UNIFORM_6MM, UNIFORM, STANDARDIZED = "uniform 6 mm resolution", "uniform resolution", "standardized"
COREGISTERED, RAW = "co-registered", "raw"
PET_VERSIONS = (UNIFORM_6MM, UNIFORM, STANDARDIZED, COREGISTERED, RAW)
_PROCESSED = (
    (UNIFORM_6MM, 0, r"coreg_avg_std_img_and_vox_siz_uniform_6mm_res"),
    (UNIFORM, 0, r"coreg_avg_std_img_and_vox_siz_uniform_resolution"),
    (STANDARDIZED, 0, r"coreg_avg_standardized_image_and_voxel_size"),
    (COREGISTERED, 0, r"co_registered_averaged"),
    (COREGISTERED, 1, r"co_registered_dynamic"),
)
_FDG_PREFIX = r"(?:adni\d?|brain|pet|18f|f18|18ffdg|fdg)"
_TRACERS = {
    r"(?:18f_?)?av_?45|florbetapir|fbp|amyvid": "florbetapir",
    r"(?:18f_?)?fbb|florbetaben|neuraceq": "florbetaben",
    r"(?:18f_?)?av_?1451|flortaucipir|ftp|t807|tauvid": "flortaucipir",
    r"(?:11c_?|c11_?)?pib": "PiB",
    r"mk_?6240": "MK-6240",
    r"pi_?2620": "PI-2620",
    r"nav_?4694|flutafuranol": "NAV4694",
    r"flutemetamol|vizamyl|fmm": "flutemetamol",
    r"tau": "a tau tracer",
    r"amyloid": "an amyloid tracer",
    r"early": "another tracer's early frames",
    r"f_?dopa": "FDOPA",
    r"o15|15o|h2o|water": "water",
}
# CTAC stays: it is an emission image corrected by CT.
_NO_EMISSION = (
    r"ac_?map|mu_?map|umap|transmission|tx|scout|topogram|nac|no_?ac|non_?ac|mip|localizer|mask"
)


def pet_version(description: str) -> tuple[str, int] | None:
    """(processing version, rank within it) of an FDG-PET; None when `pet_problem` has something
    against it.
    """
    if pet_problem(description):
        return None
    text = plain(description)
    for version, rank, words in _PROCESSED:
        if words in text:
            return version, rank
    return RAW, 0


def pet_problem(description: str) -> str | None:
    """Why a PET series is no FDG image by its description: another tracer, or no emission image at
    all.

    Processed FDG series have no prefix before ADNI's description, every other tracer has; site
    texts (raw series) are taken for FDG unless they name something else.
    """
    text = plain(description)
    for words, tracer in _TRACERS.items():
        if _has(words, text):
            return f"tracer is {tracer}, not FDG"
    if _has(_NO_EMISSION, text):
        return "no FDG emission image by its description"
    known = re.match(r"(.*?)_?(?:coreg_avg|co_registered)_", f"{text}_")
    if known and not re.fullmatch(f"(?:{_FDG_PREFIX}_?)*", known[1]):
        return f"tracer is {known[1]}, not FDG"
    return None


def looks_like_pet(description: str) -> bool:
    """Whether a description is one that only PET series have."""
    text = plain(description)
    return any(words in text for _, _, words in _PROCESSED) or _has(r"pet|fdg|18ffdg", text)
