"""Variants: a switched difference takes the other form; the gate can be left out of any of them."""

import pytest

from models.variants import DIFFERENCES, VARIANTS, build_variant, without_gate


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_a_switched_difference_takes_the_other_form(difference):
    field = DIFFERENCES[difference]
    for name, other in (("paper", "released"), ("released", "paper")):
        switched = build_variant(name, (difference,))
        assert getattr(switched, field) == getattr(VARIANTS[other], field)
        assert getattr(switched, field) != getattr(VARIANTS[name], field)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("switched", [(), ("R10",), ("R1", "R10"), ("R4",)])
def test_without_gate_changes_nothing_else(name, switched):
    others = {difference for difference in switched if difference != "R10"}
    ungated = without_gate(name, switched)
    assert not build_variant(name, ungated).gated
    assert set(ungated) - {"R10"} == others
