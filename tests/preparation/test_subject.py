"""Which errors of one subject are its scans' own."""

import errno

import pytest

from preparation.output.layout import place_of
from preparation.subject import Job, PrepareOptions, prepare_subject
from utils.errors import InputError


@pytest.mark.parametrize(
    ("cause", "kind", "is_final"),
    (
        (None, "input", True),
        (OSError("Expected 10 bytes, got 5"), "input", True),
        (EOFError(), "input", True),
        (OSError(errno.EIO, "Input/output error"), "input", False),
        (PermissionError(errno.EACCES, "Permission denied"), "input", False),
        (ImportError("no ants"), "input", False),
        (MemoryError(), "input", False),
        (None, "package", False),
    ),
)
def test_only_errors_of_the_scans_are_final(pair, tmp_path, monkeypatch, cause, kind, is_final):
    def load_scan(scan, *_, **__):
        raise InputError(scan.where, "cannot be read", "mend it", kind) from cause

    monkeypatch.setattr("preparation.subject.load_scan", load_scan)
    job = Job(
        pair,
        place_of(pair.name, "pairs", "mri", None),
        PrepareOptions(),
        tmp_path / "data",
        "new",
        {},
    )
    with pytest.raises(InputError, match="cannot be read") as caught:
        prepare_subject(job)
    assert (caught.value.kind == "final") == is_final
