"""The version of the project, which `pyproject.toml` names."""

import tomllib
from pathlib import Path


def project_version() -> str:
    """The version, such as "0.1.0"."""
    path = Path(__file__).parents[1] / "pyproject.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"]
