"""The frames of a scan that was downloaded as NIfTI files."""

from data.volume import Rules, Volume, corner_distance, read_frames
from preparation.formats import refuse_foreign
from preparation.scans import Scan
from utils.errors import InputError

_SAME_GRID_MM = 0.1  # at the corners of the field of view


def read_nifti(scan: Scan, rules: Rules) -> list[Volume]:
    """All frames of one or several NIfTI files, on one grid.

    Args:
        scan: its files.
        rules: as for `data.volume.read_frames`.

    Raises:
        InputError: a file that is refused, several for an MRI, or frames on two grids.
    """
    if scan.modality == "MRI" and len(scan.files) > 1:
        raise InputError(scan.where, f"{len(scan.files)} files, not one volume", "choose one")
    frames = []
    for file in scan.files:
        refuse_foreign(file)
        volumes = read_frames(file, rules)
        frames += volumes
        if not _same_grid(volumes[0], frames[0]):
            problem = f"not on the grid of the first frame, {scan.files[0].name}"
            raise InputError(file, problem, "keep the frames of one scan in the folder")
    return frames


def _same_grid(one: Volume, other: Volume) -> bool:
    shape = one.array.shape
    if shape != other.array.shape:
        return False
    return corner_distance(shape, one.affine, other.affine) <= _SAME_GRID_MM
