"""Tables of size and BOPS: ratios of the paper's accounting, parts, totals, units."""

from __future__ import annotations

import pytest

from qdbev.reporting.tables.costs import bops_table, size_table

MACS = {"backbone": 400e6, "neck": 100e6, "encoder": 75e6, "decoder": 25e6}


def bops_rows(*models):
    return [
        {"name": name, "bits": f"W{weight}A{activation}", "part": part, "bops": macs * weight * activation}
        for name, weight, activation in models
        for part, macs in MACS.items()
    ]


def test_bops_table_reads_as_written_here():
    table = bops_table(bops_rows(("float", 32, 32), ("quantized", 4, 6)), reference="float")
    assert table.cells == [
        ["float", "W32A32", "409.60", "102.40", "76.80", "25.60", "614.40", "1.0×"],
        ["quantized", "W4A6", "9.60", "2.40", "1.80", "0.60", "14.40", "42.7×"],
    ]
    assert table.shown_in == "In GBOPS."
    assert table.rows[1]["total"] == 600e6 * 24
    assert table.rows[1]["ratio"] == pytest.approx(1024 / 24)


def test_a_part_that_one_model_lacks_is_a_dash_and_counts_nothing():
    rows = [*bops_rows(("float", 32, 32)), {"name": "half", "part": "backbone", "bops": 2e9}]
    table = bops_table(rows, reference="float")
    assert table.cells[1] == ["half", "", "2.00", "–", "–", "–", "2.00", "307.2×"]


def test_one_part_twice_is_refused():
    with pytest.raises(ValueError, match="'backbone' of 'float' came twice"):
        bops_table([*bops_rows(("float", 32, 32)), bops_rows(("float", 32, 32))[0]], reference="float")


@pytest.mark.parametrize("name", ["total", "ratio", "bits", "name"])
def test_a_part_cannot_take_the_name_of_a_column(name):
    with pytest.raises(ValueError, match=f"'{name}'"):
        bops_table([{"name": "float", "part": name, "bops": 1.0}], reference="float")


def test_size_table_of_the_papers_tiny():
    """Table 4 prints 126.8 MB for float and 15.9 MB for W4 (126.82 / 8 = 15.85)."""
    nominal = 33_245_627 * 4
    rows = [
        {
            "name": "float",
            "bits": "W32",
            "parameters": 33_245_627,
            "nominal_bytes": nominal,
            "artifact_bytes": 134_000_000,
        },
        {
            "name": "QD-BEV",
            "bits": "W4",
            "parameters": 33_245_627,
            "nominal_bytes": nominal / 8,
            "artifact_bytes": None,
        },
    ]
    assert size_table(rows, reference="float").cells == [
        ["float", "W32", "33,245,627", "126.82", "1.0×", "134,000,000", "1.0×"],
        ["QD-BEV", "W4", "33,245,627", "15.85", "8.0×", "–", "–"],
    ]
