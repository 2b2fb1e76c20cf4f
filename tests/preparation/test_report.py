"""What a run says about itself."""

from preparation.cohort import Item
from preparation.output.layout import place_of
from preparation.report import exit_status
from preparation.scans import LeftOutScan


def test_a_fault_in_what_was_found_is_in_the_exit_status(pair):
    place = place_of(pair.name, "pairs", "mri", None)
    made = Item(pair, place, record={"warnings": []})
    faults = [
        LeftOutScan("a", None, "not chosen"),
        LeftOutScan("b", None, "damaged", is_fault=True),
    ]
    assert exit_status([made], faults[:1]) == 0 and exit_status([made], faults) == 1
    assert exit_status([Item(pair, place)], []) == 2
