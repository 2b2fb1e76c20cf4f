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
# A regular expression, to be used with case ignored, also within others.
FDG = "|".join(_FDG_NAMES)
_FDG = re.compile(FDG, re.IGNORECASE)


def is_fdg(text: str) -> bool:
    """Whether a tracer's name, or a text with one in it, says FDG."""
    return _FDG.search(text) is not None
