"""What a run of `prepare.py` says about itself: `report.tsv`, `report.html`, one summary line, the
exit status.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from preparation.cohort import Item
from preparation.output.layout import PICTURES
from preparation.output.qc import Entry, save_page
from preparation.scans import SCAN_COLUMNS, Findings, LeftOutScan, scan_cells
from preparation.subject import picture_caption
from utils.files import write_tsv

# status -> heading on the page, in the order in which a person should look
STATUSES = {
    "flagged": "Flagged: implausible, kept apart in flagged/",
    "failed": "Failed: nothing made",
    "warned": "Made, with warnings",
    "ok": "Made",
    "skipped": "Made by an earlier run",
}
FIGURES = (
    "rotation_deg", "shift_mm", "start", "nmi_before", "nmi_after", "nmi_brain", "nmi_mirrored", "contrast",
    "fov_cover", "sharpness", "off_centre_mm", "scale_x", "scale_y", "scale_z", "template_fit", "mri_peak", "pet_peak",
)  # fmt: skip
COLUMNS = (
    "subject", "status", *(f"{role}_{part}" for role in ("mri", "pet") for part in SCAN_COLUMNS), "days_between",
    "mri_shape", "mri_voxel", "pet_shape", "pet_voxel", "pet_frames", "pet_units", "space", "template", *FIGURES,
    "seconds", "warnings", "flags", "message",
)  # fmt: skip


def pairing_table(findings: Findings) -> str:
    """The pairs in columns for the terminal, then the subjects that have none; `pairs.tsv` has
    every scan.
    """
    rows = [("subject", "MRI", "", "", "PET", "", "", "days")]
    for pair in findings.pairs:
        scans = [
            (s.image_id or s.where.name, s.description or "", s.date or "")
            for s in (pair.mri, pair.pet)
        ]
        rows.append((pair.name, *scans[0], *scans[1], "?" if pair.days is None else pair.days))
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(f"{cell!s:{width}}" for cell, width in zip(cells, widths, strict=True))
        for cells in rows
    ]
    alone = [item for item in findings.left_out if item.path is None]
    lines += [f"{item.subject or '?'}: left out: {item.reason}" for item in alone]
    return "\n".join(line.rstrip() for line in lines).encode("utf-8", "replace").decode("utf-8")


def faults_of(left_out: Iterable[LeftOutScan]) -> list[LeftOutScan]:
    """What was left out because something is wrong with it."""
    return [item for item in left_out if item.is_fault]


def fault_line(item: LeftOutScan) -> str:
    """`subject: path: reason`, as far as they are known, in one line."""
    return ": ".join(
        " ".join(str(part).split()) for part in (item.subject, item.path, item.reason) if part
    )


def write_report(root: Path, items: Sequence[Item], left_out: Sequence[LeftOutScan]) -> str:
    """Write `report.tsv` and `report.html`; returns the summary line.

    Args:
        left_out: scans and subjects that were not paired; what is wrong with some has rows of its
            own.

    Raises:
        InputError: a file cannot be written.
    """
    line = summary(items, left_out)
    faults = faults_of(left_out)
    rows = [*(row(item) for item in items), *map(_fault_row, faults)]
    write_tsv(root / "report.tsv", COLUMNS, rows, "choose another --out")
    lost = [
        Entry(item.subject or "?", "failed", (fault_line(item),), None, math.inf) for item in faults
    ]
    save_page(
        root / "report.html", [*(_entry(item, root) for item in items), *lost], STATUSES, line
    )
    return line


def summary(items: Sequence[Item], left_out: Sequence[LeftOutScan]) -> str:
    """One line: how many subjects became what."""
    counts = Counter(item.status for item in items)
    made = counts["ok"] + counts["warned"]
    warned = f" ({counts['warned']} with warnings)" if counts["warned"] else ""
    faulty = f" ({len(faults_of(left_out))} for faults)" if faults_of(left_out) else ""
    return (
        f"{len(items)} pairs: {made} made{warned}, {counts['skipped']} made before, {counts['flagged']} flagged, "
        f"{counts['failed']} failed; {len(left_out)} scans left out{faulty}"
    )


def exit_status(items: Sequence[Item], left_out: Iterable[LeftOutScan]) -> int:
    """0 when every subject is there, 1 when some failed, are faulty or are flagged, 2 when all
    failed.
    """
    statuses = {item.status for item in items}
    if statuses <= {"failed"}:
        return 2
    return 1 if statuses & {"failed", "flagged"} or faults_of(left_out) else 0


def row(item: Item) -> dict:
    """A subject's cells of `report.tsv`, by column; what is not known is empty."""
    cells: dict = dict.fromkeys(COLUMNS, "")
    cells |= {"subject": item.pair.name, "status": item.status, "days_between": item.pair.days}
    cells |= scan_cells(item.pair.mri) | scan_cells(item.pair.pet)
    cells |= {"message": item.problem, "flags": "; ".join(item.flags), "seconds": item.seconds}
    record = item.record
    if record is None:
        return cells
    for key in ("mri", "pet"):
        for column, source in (("shape", "shape"), ("voxel", "voxel_mm")):
            cells[f"{key}_{column}"] = " x ".join(f"{n:g}" for n in record["inputs"][key][source])
    pet = record["inputs"]["pet"]
    cells |= {"pet_frames": pet["frames"], "pet_units": pet["units"], "space": record["space"]}
    cells |= {"template": record["template"], "seconds": record["seconds"]}
    cells |= {name: record["figures"].get(name) for name in FIGURES}
    return cells | {"warnings": "; ".join(item.warnings)}


def _fault_row(item: LeftOutScan) -> dict:
    """The cells of something that no pair could be made of."""
    scan = scan_cells(item.scan) if item.scan else {}
    message = f"{item.path}: {item.reason}" if item.path else item.reason
    about = {"subject": item.subject, "status": "failed", "message": message}
    return dict.fromkeys(COLUMNS, "") | scan | about


def _entry(item: Item, root: Path) -> Entry:
    """A subject on the page."""
    picture = Path(PICTURES) / f"{item.pair.name}.png"
    shown = item.record is not None and (root / picture).is_file()
    record = item.record or {"figures": {}}
    lines = (item.problem or "", *item.flags, *item.warnings)
    nmi = record["figures"].get("nmi_brain") or math.inf
    lines += (picture_caption(record),)
    return Entry(item.pair.name, item.status, lines, picture if shown else None, nmi)
