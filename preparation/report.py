"""What a run of `prepare.py` says: `report.tsv`, `report.html`, one summary line, exit status."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from preparation.cohort import Item
from preparation.output.layout import PICTURES
from preparation.output.qc import Entry, save_page
from preparation.scans import SCAN_COLUMNS, Findings, LeftOutScan, Scan, scan_cells
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
    "rotation_deg", "shift_mm", "start", "nmi_before", "nmi_after", "nmi_brain", "nmi_mirrored",
    "contrast", "fov_cover", "sharpness", "off_centre_mm", "scale_x", "scale_y", "scale_z",
    "template_fit", "mri_peak", "pet_peak", "warp_before", "warp_after", "warp_mean_mm",
    "warp_max_mm", "warp_folded",
)  # fmt: skip
_SCANS = (*(f"mri_{part}" for part in SCAN_COLUMNS), *(f"pet_{part}" for part in SCAN_COLUMNS))
COLUMNS = (
    "subject", "status", *_SCANS, "days_between", "mri_shape", "mri_voxel", "pet_shape",
    "pet_voxel", "pet_frames", "pet_units", "space", "template", *FIGURES, "seconds", "warnings",
    "flags", "message",
)  # fmt: skip


def pairing_table(findings: Findings) -> str:
    """The pairs in columns for the terminal, then the subjects that have none.

    `pairs.tsv` has every scan.
    """
    rows = [("subject", "MRI", "", "", "PET", "", "", "days")]
    for pair in findings.pairs:
        days = "?" if pair.days is None else str(pair.days)
        rows.append((pair.name, *_shown(pair.mri), *_shown(pair.pet), days))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for cells in rows:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        lines.append("  ".join(padded).rstrip())
    for item in findings.left_out:
        if item.path is None:
            lines.append(f"{item.subject or '?'}: left out: {item.reason}".rstrip())
    # Names of files need not be text that a terminal can take.
    return "\n".join(lines).encode("utf-8", "replace").decode("utf-8")


def _shown(scan: Scan) -> tuple[str, str, str]:
    """What tells a scan from the others of its subject."""
    return scan.image_id or scan.where.name, scan.description or "", str(scan.date or "")


def faults_of(left_out: Iterable[LeftOutScan]) -> list[LeftOutScan]:
    """What was left out because something is wrong with it."""
    return [item for item in left_out if item.is_fault]


def fault_line(item: LeftOutScan) -> str:
    """`subject: path: reason`, as far as they are known, in one line."""
    known = [str(part) for part in (item.subject, item.path, item.reason) if part]
    return " ".join(": ".join(known).split())


def write_report(root: Path, items: Sequence[Item], left_out: Sequence[LeftOutScan]) -> str:
    """Write `report.tsv` and `report.html`; returns the summary line.

    Args:
        left_out: scans and subjects that were not paired; what is wrong with some has rows of its
            own.

    Raises:
        InputError: a file cannot be written.
    """
    line = summary(items, left_out)
    rows = [row(item) for item in items]
    entries = [_entry(item, root) for item in items]
    for fault in faults_of(left_out):
        rows.append(_fault_row(fault))
        about = fault.subject or "?"
        entries.append(Entry(about, "failed", (fault_line(fault),), (), math.inf))
    write_tsv(root / "report.tsv", COLUMNS, rows, "choose another --out")
    save_page(root / "report.html", entries, STATUSES, line)
    return line


def summary(items: Sequence[Item], left_out: Sequence[LeftOutScan]) -> str:
    """One line: how many subjects became what."""
    counts = Counter(item.status for item in items)
    made = f"{counts['ok'] + counts['warned']} made"
    if counts["warned"]:
        made += f" ({counts['warned']} with warnings)"
    lost = f"{len(left_out)} scans left out"
    if faults := faults_of(left_out):
        lost += f" ({len(faults)} for faults)"
    return (
        f"{len(items)} pairs: {made}, {counts['skipped']} made before, "
        f"{counts['flagged']} flagged, {counts['failed']} failed; {lost}"
    )


def exit_status(items: Sequence[Item], left_out: Iterable[LeftOutScan]) -> int:
    """0: every subject is there; 1: some failed, are faulty or are flagged; 2: all failed."""
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
    for key, read in record["inputs"].items():
        cells[f"{key}_shape"] = _times(read["shape"])
        cells[f"{key}_voxel"] = _times(read["voxel_mm"])
    pet = record["inputs"]["pet"]
    cells |= {"pet_frames": pet["frames"], "pet_units": pet["units"], "space": record["space"]}
    cells |= {"template": record["template"], "seconds": record["seconds"]}
    cells |= {name: record["figures"].get(name) for name in FIGURES}
    return cells | {"warnings": "; ".join(item.warnings)}


def _times(numbers: Iterable[float]) -> str:
    """Three numbers as "256 x 256 x 170"."""
    return " x ".join(f"{number:g}" for number in numbers)


def _fault_row(item: LeftOutScan) -> dict:
    """The cells of something that no pair could be made of."""
    scan = scan_cells(item.scan) if item.scan else {}
    message = f"{item.path}: {item.reason}" if item.path else item.reason
    about = {"subject": item.subject, "status": "failed", "message": message}
    return dict.fromkeys(COLUMNS, "") | scan | about


def _entry(item: Item, root: Path) -> Entry:
    """A subject on the page."""
    pictures = []
    if item.record is not None:
        names = f"{item.pair.name}.png", f"{item.pair.name}_warp.png"
        found = [Path(PICTURES) / name for name in names]
        pictures = [
            path for path in found[: 1 + bool(item.record.get("warp"))] if (root / path).is_file()
        ]
    record = item.record or {"figures": {}}
    lines = (item.problem or "", *item.flags, *item.warnings)
    nmi = record["figures"].get("nmi_brain") or math.inf
    lines += (picture_caption(record),)
    return Entry(item.pair.name, item.status, lines, tuple(pictures), nmi)
