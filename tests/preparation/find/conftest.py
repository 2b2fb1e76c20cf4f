"""Folders of files that finders look at."""

import os

import pytest


@pytest.fixture
def touch(tmp_path):
    """Function that makes files below tmp_path / "in", each another one, for that folder."""

    def make(*names, text=None):
        for name in names:
            path = tmp_path / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.fsencode(path) if text is None else text.encode())
        return tmp_path / "in"

    return make
