"""Which names of tracers are FDG."""

import pytest

from data.tracers import is_fdg

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
