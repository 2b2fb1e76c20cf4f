"""Which names of tracers are FDG."""

import pytest

from data.tracers import is_fdg, is_tracer, names_nothing, other_tracer, radionuclide_problem

FDG = (
    "FDG",
    "18FFDG",
    "[18F]FDG",
    "F-18 FDG",
    "fdg_brain",
    "FDG -- fluorodeoxyglucose",
    "Fludeoxyglucose",
    "Fludeoxyglucose (18F)",
    "Fluorodeoxyglucose F^18^",
    "fluoro_deoxy_glucose",
    "18F-fluoro-deoxy-glucose",
    "2-deoxy-2-[18F]fluoro-D-glucose",
    "2-Deoxy-2-[¹⁸F]fluoroglucose",
    "[F-18]-2-fluoro-2-deoxy-D-glucose",
    "2-[fluorine-18]fluoro-2-deoxy-D-glucose",
    "2-deoxy-2-(18F)fluoro-D-glucopyranose",
    "D-Glucose, 2-deoxy-2-(fluoro-18F)-",
    "Fluordesoxyglukose",
    "fluorodésoxyglucose",
)
OTHERS = (
    "",
    "DASB",
    "Florbetapir",
    "FDOPA",
    "FDGal",
    "[11C]glucose",
    "2-deoxy-2-[18F]fluoro-D-galactose",
    "2-deoxy-2-[18F]fluoro-D-mannose",
    "3'-deoxy-3'-[18F]fluorothymidine",
)


@pytest.mark.parametrize("name", FDG)
def test_names_of_fdg(name):
    assert is_fdg(name) and is_fdg(name.upper()) and is_fdg(f"Solution, {name}, 185 MBq")


@pytest.mark.parametrize("name", OTHERS)
def test_names_of_others(name):
    assert not is_fdg(name)


@pytest.mark.parametrize(
    "wanted, text",
    [
        ("FDG", "2-deoxy-2-[18F]fluoro-D-glucose"),
        ("Fludeoxyglucose", "18FFDG"),
        ("DASB", "[11C]DASB"),
        ("dasb", "11CDASB"),
        ("[11C]DASB", "11C-DASB"),
        ("C-11 DASB", "DASB"),
        ("AV45", "Florbetapir F18"),
        ("florbetapir", "18FAV45"),
        ("PiB", "C11-PIB"),
        ("MK-6240", "[18F]MK6240"),
    ],
)
def test_other_tracers_by_any_of_their_names(wanted, text):
    assert is_tracer(text, wanted) and is_tracer(text.upper(), wanted)


@pytest.mark.parametrize(
    "wanted, text",
    [("DASB", "FDG"), ("DASB", "DASBX"), ("FDG", "DASB"), ("AV45", "AV1451"), ("FDOPA", "FDG")],
)
def test_a_tracer_is_no_other_one(wanted, text):
    assert not is_tracer(text, wanted)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "?",
        "unknown",
        "UNKNOWN",
        "Unknown tracer",
        "n/a",
        "N.A.",
        "none",
        "null",
        "other",
        "not specified",
        "Not Available",
        "['unknown']",
        "18F",
        "F-18",
        "[18F]",
        "radiopharmaceutical: unknown",
    ],
)
def test_what_names_no_tracer(text):
    assert names_nothing(text) and other_tracer(text) is None


@pytest.mark.parametrize("text", ["FDG", "DASB", "11C", "Solution", "nonane", "noneFDG", "未知薬"])
def test_what_may_name_one(text):
    assert not names_nothing(text)


def test_other_tracers_in_a_text():
    assert other_tracer("Brain FDG, 185 MBq") is None
    assert other_tracer("PET [11C]Raclopride dyn") == "raclopride"
    assert other_tracer("brain Amyvid", "FDG") == "florbetapir"
    assert other_tracer("amyloid, Amyvid", "AV45") is None
    assert other_tracer("amyloid, Amyvid", "PiB") == "florbetapir"


@pytest.mark.parametrize(
    "name, half_life, said",
    [
        (None, None, None),
        ("", "n/a", None),
        ("unknown", "unknown", None),
        ("^18^Fluorine", 6586.2, None),
        ("fluorine", [6588], None),
        ("carbon", None, "marked with carbon"),
        ("^11^Carbon", None, "marked with ^11^Carbon"),
        ("other", 1223, "half-life 1223 s"),
        (None, "1223", "half-life 1223 s"),
        ("F18", float("nan"), None),
    ],
)
def test_the_radionuclide(name, half_life, said):
    problem = radionuclide_problem(name, half_life)
    assert problem is None if said is None else said in problem
