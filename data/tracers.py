"""Which names are FDG: one list for BIDS labels and sidecars, DICOM headers and descriptions.

Sources: the nonproprietary name fludeoxyglucose (18F) and the chemical names are those of PubChem
CID 68614; "Fluorodeoxyglucose F^18^" is the code meaning of DICOM PS3.16 CID 4021; `18FFDG` is
the label of Clinica's BIDS conversion.
"""

import re

# What stands around the parts of a chemical name: fluorine, the F of 18F, the D of D-glucose, and
# anything but letters. Bounded, because names come from files.
_FILLING = r"(?:fluor(?:o|ine)?|[fd]|[^a-z]){0,24}"
_DEOXY = r"d[eé]s?oxy"
_GLUCOSE = r"glu(?:[ck]ose|copyranose)"
_FDG_NAMES = (
    r"(?:18f|f18)?[\W_]?fdg(?!al)",  # FDG, 18FFDG, [18F]FDG; FDGal is fluorodeoxygalactose
    rf"(?:flu)?{_FILLING}{_DEOXY}{_FILLING}{_GLUCOSE}",  # 2-[18F]fluoro-2-deoxy-D-glucose
    rf"{_GLUCOSE}{_FILLING}{_DEOXY}{_FILLING}fluor",  # D-Glucose, 2-deoxy-2-fluoro, as in an index
)
FDG_NAME = "FDG"  # what is taken unless another one is asked for
# A regular expression, to be used with case ignored, also within others.
FDG = "|".join(_FDG_NAMES)
_FDG = re.compile(FDG, re.IGNORECASE)


# Others by generic, brand and development names: regular expressions of whole words, see `plain`.
OTHERS = {
    "florbetapir": (r"(?:18f_?)?av_?45", "florbetapir", "fbp", "amyvid"),
    "florbetaben": (r"(?:18f_?)?fbb", "florbetaben", "neuraceq"),
    "flortaucipir": (r"(?:18f_?)?av_?1451", "flortaucipir", "ftp", "t807", "tauvid"),
    "PiB": (r"(?:11c_?|c11_?)?pib",),
    "MK-6240": (r"mk_?6240",),
    "PI-2620": (r"pi_?2620",),
    "NAV4694": (r"nav_?4694", "flutafuranol"),
    "flutemetamol": ("flutemetamol", "vizamyl", "fmm"),
    "a tau tracer": ("tau",),
    "an amyloid tracer": ("amyloid",),
    "another tracer's early frames": ("early",),
    "FDOPA": (r"f_?dopa",),
    "water": ("o15", "15o", "h2o", "water"),
}
_ISOTOPES = ("11c", "13n", "15o", "18f", "64cu", "68ga", "89zr", "124i")
# Before a tracer's name, in either order: `11c`, `c11`, `f_18`.
_MARK = "|".join(re.sub(r"(\d+)([a-z]+)", r"\1_?\2|\2_?\1", name) for name in _ISOTOPES)
_MARK = f"(?:{_MARK})_?"


def is_fdg(text: str) -> bool:
    """Whether a tracer's name, or a text with one in it, says FDG."""
    return _FDG.search(text) is not None


def is_tracer(text: str, wanted: str) -> bool:
    """Whether a tracer's name, or a text with one in it, says the wanted one, by any name of it."""
    if is_fdg(wanted):
        return is_fdg(text)
    name = re.sub(f"^{_MARK}", "", plain(wanted))
    names = [f"(?:{_MARK})?{name}"]
    for alternatives in OTHERS.values():
        if words(*alternatives).search(plain(wanted)):
            names += alternatives
    return words(*names).search(plain(text)) is not None


def plain(text: str) -> str:
    """A text for comparing: small letters and digits, everything between them one `_`."""
    return re.sub("[^a-z0-9]+", "_", text.lower()).strip("_")


def words(*alternatives: str) -> re.Pattern:
    """Finds any of the alternatives as a run of whole words of a plain text."""
    return re.compile(f"(?:^|_)(?:{'|'.join(alternatives)})(?:_|$)")
