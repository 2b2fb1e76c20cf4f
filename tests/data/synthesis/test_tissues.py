"""One table of tissues for two sources of anatomy."""

import numpy as np

from data.phantom.head import TISSUES as PHANTOM
from data.synthesis.tissues import NUMBERS, TISSUES, brain, from_freesurfer, from_phantom


def test_every_label_has_one_tissue():
    for attribute in ("labels", "phantom"):
        labels = [label for tissue in TISSUES for label in getattr(tissue, attribute)]
        assert len(labels) == len(set(labels))


def test_every_tissue_of_a_procedural_head_is_there():
    ours = {label for tissue in TISSUES for label in tissue.phantom}
    assert ours == {0, *(label for label, *_ in PHANTOM.values())}


def test_freesurfer_labels():
    labels = np.array([[0, 2, 41], [3, 42, 17], [515, 24, 999]])
    names = [TISSUES[number].name for number in from_freesurfer(labels).flatten()]
    assert names[:6] == [
        "background",
        "white matter",
        "white matter",
        "cortex",
        "cortex",
        "hippocampus",
    ]
    assert names[6:] == ["bone", "CSF", "CSF"]


def test_phantom_labels():
    label = PHANTOM["grey matter"][0]
    assert from_phantom(np.array([0, label])).tolist() == [0, NUMBERS["cortex"]]


def test_the_brain_is_what_skull_stripping_leaves():
    is_brain = brain()
    assert is_brain[NUMBERS["ventricles"]] and is_brain[NUMBERS["brain stem"]]
    assert not is_brain[NUMBERS["bone"]] and not is_brain[NUMBERS["CSF"]]
