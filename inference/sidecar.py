"""What a fused volume was made from, as JSON beside it; and the layout of a BIDS derivative.

    dataset_description.json  .bidsignore
    sub-01/[ses-M00/]anat/sub-01[_ses-M00]..._desc-fused_T1w.nii.gz  .json

A fused volume takes the name of the T1w whose grid it lies on, with `desc-fused`: BIDS has no
suffix of its own for it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.bids import BIDS_VERSION, Sidecars, entities, read_json
from data.subjects import find_subjects
from inference.fuse import Fusion, Job
from inference.trained import TrainedModel
from utils.errors import InputError
from utils.files import replacing
from utils.version import project_version

DESCRIPTION = "dataset_description.json"
LINK = "source"  # the name of the source data set in BIDS URIs
NAME = "DC2Fusion infer_sigleImage.py"
DOUBTS = "Doubts"  # what speaks against the pair
IGNORED = "*.png", "*.html", "*_colour.nii.gz", "*_dicom/"  # what BIDS has no name for


def record_of(
    job: Job,
    fusion: Fusion,
    network: TrainedModel,
    settings: Mapping[str, object],
    doubts: Sequence[str],
    heard: Sequence[str],
) -> dict:
    """What is known of a fused volume.

    Args:
        settings: of the fusing, {flag: value}, into the record as they are.
        doubts: about the pair, see `data.quality.say_doubts`.
        heard: all that was said while it was read and fused.
    """
    mri, pet = fusion.scales
    weights = {"Name": network.name, "File": network.source.name}
    if network.source.is_file():
        with open(network.source, "rb") as file:
            weights["SHA256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "Description": "MRI and PET fused by a network",
        "Units": "arbitrary",
        "Sources": [str(job.mri), str(job.pet)],
        "SkullStripped": False,
        "GeneratedBy": {"Name": NAME, "Version": project_version()},
        "Network": weights,
        "NetworkDescription": network.description.removeprefix(f"{network.source}: "),
        "Balance": network.model.default_balance if network.turns else None,
        "Settings": dict(settings),
        "ValuesOf0And1": {"MRI": list(map(float, mri)), "PET": list(map(float, pet))},
        "ClippedFraction": float(fusion.clipped),
        DOUBTS: list(doubts),
        "Notices": list(heard),
    }


def write_json(path: Path, content: Mapping) -> None:
    """Write JSON for people to read; names that are not valid text are made so.

    Raises:
        InputError: the file cannot be written.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with replacing(path) as part:
        part.write_bytes(text.encode("utf-8", "replace"))


class Derivative:
    """A BIDS derivative data set of fused volumes.

    Args:
        source: the BIDS data set that the pairs come from.
        root: of the derivative.

    Raises:
        InputError: `source` is in another layout, or `root` holds another data set.
    """

    def __init__(self, source: Path, root: Path) -> None:
        self.source, self.root = source, root
        if find_subjects(source).layout != "BIDS":
            problem = f"bids needs a BIDS data set, and {source} is in the published layout"
            raise InputError("--layout", problem, "leave the flag out")
        there = root / DESCRIPTION
        makers = [{}]
        if there.exists():
            makers = read_json(there).get("GeneratedBy", makers)
            if makers[0].get("Name") != NAME:
                problem = "belongs to another data set"
                raise InputError(there, problem, "give an --output folder of its own")
        self._sidecars = Sidecars(source)

    def fused_file(self, mri: Path) -> Path:
        """Where the fused volume of a T1w of the source lies."""
        labels = {key: label for key, label in entities(mri).items() if key != "desc"}
        name = "_".join(f"{key}-{label}" for key, label in labels.items())
        folder = self.root / mri.parent.relative_to(self.source)
        return folder / f"{name}_desc-fused_T1w.nii.gz"

    def record(self, job: Job, record: Mapping) -> dict:
        """A record with what BIDS asks for: sources as URIs, whether the head is stripped."""
        sources = []
        for path in (job.mri, job.pet):
            sources.append(f"bids:{LINK}:{path.relative_to(self.source).as_posix()}")
        stripped = self._sidecars.fields(job.mri).get("SkullStripped", False)
        return {**record, "Sources": sources, "SkullStripped": bool(stripped)}

    def write_description(self) -> None:
        """Write the files that make the folder a data set.

        Raises:
            InputError: a file cannot be written.
        """
        source = Path(os.path.relpath(self.source.resolve(), self.root.resolve())).as_posix()
        description = {
            "Name": "Fused MRI and PET",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": NAME, "Version": project_version()}],
            "DatasetLinks": {LINK: source},
        }
        write_json(self.root / DESCRIPTION, description)
        readme = "Fused MRI and PET volumes; the JSON beside each says what it was made from.\n"
        for name, text in (("README.md", readme), (".bidsignore", "\n".join(IGNORED) + "\n")):
            with replacing(self.root / name) as part:
                part.write_text(text, encoding="utf-8")
