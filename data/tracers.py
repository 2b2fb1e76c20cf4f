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
    "DASB": ("dasb",),
    "raclopride": ("raclopride",),
    "UCB-J": (r"ucb_?j",),
    "PBR28": (r"pbr_?28",),
    "PK11195": (r"pk_?11195",),
    "flumazenil": ("flumazenil",),
    "methionine": ("methionine",),
    "FET": ("fet",),
    "FLT": ("flt",),
}
_KINDS_OF_TRACER = "an amyloid tracer", "a tau tracer", "water"  # may stand beside a tracer's name
_ISOTOPES = ("11c", "13n", "15o", "18f", "64cu", "68ga", "89zr", "124i")
# Before a tracer's name, in either order: `11c`, `c11`, `f_18`.
_MARK = "|".join(re.sub(r"(\d+)([a-z]+)", r"\1_?\2|\2_?\1", name) for name in _ISOTOPES)
_MARK = f"(?:{_MARK})_?"

# What people and programs write where the tracer is not known, also several of these words. The
# isotope alone is one of them: other tracers have it, too.
_NO_NAMES = (
    "un_?(?:known|specified|defined|named|identified)|unk|anonymi[sz]ed|removed|redacted|x{2,}",
    "not?_(?:available|applicable|known|specified|given|named|reported|recorded)",
    "n_?a|nan|none|null|nil|missing|tbd|others?",
    r"18_?f|f_?18|fluor(?:ine)?_?18|18_?fluor(?:ine)?",
    r"pet|(?:radio_?)?(?:tracer|pharmaceutical|ligand)",
)
_NO_NAME = re.compile(f"(?:(?:{'|'.join(_NO_NAMES)})(?:_|$))*")
_FLUORINE_18_S = 6586.2  # half-life


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


def names_nothing(text: str) -> bool:
    """Whether what stands for a tracer's name names none: empty, "unknown", "n/a", "18F"."""
    return _NO_NAME.fullmatch(re.sub(r"[\W_]+", "_", text.lower()).strip("_")) is not None


def other_tracer(text: str, wanted: str = FDG_NAME) -> str | None:
    """The tracer, known here and not the wanted one, that a text names; None without any."""
    is_named = not is_fdg(wanted) and is_tracer(text, wanted)
    for name, pattern in _OTHERS.items():
        is_other = not (is_tracer(name, wanted) or (is_named and name in _KINDS_OF_TRACER))
        if is_other and pattern.search(plain(text)):
            return name
    return None


def radionuclide_problem(name: object, half_life_s: object) -> str | None:
    """Why what a PET's tracer is marked with is not FDG's fluorine-18.

    Args:
        name: of the radionuclide, such as F18 or ^18^Fluorine; None or anything that names none.
        half_life_s: in seconds, None or anything that is no number above 0.

    Returns:
        the reason; None for fluorine-18, and where neither says anything.
    """
    text = str(name or "").strip()
    mass, letters = re.sub(r"\D", "", text), re.sub("[^a-z]", "", text.lower())
    is_fluorine = mass == "18" or (not mass and letters.startswith("f"))
    if not (is_fluorine or names_nothing(text)):
        return f"tracer is marked with {text}, FDG with F18"
    try:
        half_life = float(half_life_s or 0)
    except (TypeError, ValueError, OverflowError):
        return None
    if half_life > 0 and abs(half_life / _FLUORINE_18_S - 1) > 0.05:
        usual = f"fluorine-18 has {_FLUORINE_18_S:.0f} s"
        return f"tracer is not FDG (half-life {half_life:.0f} s, {usual})"
    return None


def plain(text: str) -> str:
    """A text for comparing: small letters and digits, everything between them one `_`."""
    return re.sub("[^a-z0-9]+", "_", text.lower()).strip("_")


def words(*alternatives: str) -> re.Pattern:
    """Finds any of the alternatives as a run of whole words of a plain text."""
    return re.compile(f"(?:^|_)(?:{'|'.join(alternatives)})(?:_|$)")


_OTHERS = {name: words(*alternatives) for name, alternatives in OTHERS.items()}
