"""What the tests of preparation share."""

import pytest

from preparation.scans import Scan, ScanPair


@pytest.fixture
def pair(tmp_path) -> ScanPair:
    """Two scans of which only names, sizes and times matter."""
    scans = []
    for modality in ("MRI", "PET"):
        files = [tmp_path / modality / f"{i}.dcm" for i in range(2)]
        for file in files:
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(b"content")
        scans.append(Scan("033_S_5198", modality, tuple(files), "dicom"))
    return ScanPair("033_S_5198", *scans, days=3)
