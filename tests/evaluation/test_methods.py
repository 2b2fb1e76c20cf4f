"""The rows of a table: which files they stand for, and what their scores depend on."""

import os
from pathlib import Path

import numpy as np
import torch

from data.subjects import find_subjects
from evaluation import methods
from models import build_model


def test_a_file_belongs_to_the_longest_name_that_it_begins_with(tmp_path):
    for name in ("s1_fused.nii", "s10_fused.nii.gz", "s1_ses-2_fused.nii", "notes.txt"):
        (tmp_path / name).touch()
    names = ("s1", "s10", "s1_ses-2")
    method = methods.folder_method(f"mine={tmp_path}", names)
    found = [method.fused_file(name).name for name in names]
    assert found == ["s1_fused.nii", "s10_fused.nii.gz", "s1_ses-2_fused.nii"]


def test_all_files_and_options_of_published_weights_are_stamped(synthetic_cohort, tmp_path):
    subject = find_subjects(synthetic_cohort).subjects[0]
    state = build_model("u2fusion").method.state_dict()
    for half in ("encoder", "decoder"):
        np.savez(
            tmp_path / f"w_{half}.npz",
            **{k: v.numpy() for k, v in state.items() if k.startswith(half)},
        )
    loading = methods.Loading(40, "paper", torch.device("cpu"))

    def stamp(text):
        return methods.weights_method(
            text.replace("FILE", f"{tmp_path}/w_encoder.npz"), loading, "--weights"
        ).stamp(subject)

    before = stamp("u2fusion=FILE")
    assert {Path(entry[0]).name for entry in before[2:-1]} == {"w_encoder.npz", "w_decoder.npz"}
    assert stamp("u2fusion=FILE") == before
    assert stamp("u2fusion:pet_range=studio=FILE") != before
    os.utime(tmp_path / "w_decoder.npz", (1, 1))
    assert stamp("u2fusion=FILE") != before


def test_a_checkpoint_read_as_another_variant_is_another_method(synthetic_cohort, tmp_path):
    subject = find_subjects(synthetic_cohort).subjects[0]
    (tmp_path / "last.pt").touch()
    files = (tmp_path / "last.pt",)
    readings = [
        methods.Method("net", files=files, reading=variant) for variant in ("paper", "released")
    ]
    assert readings[0].stamp(subject) == readings[0].stamp(subject) != readings[1].stamp(subject)
