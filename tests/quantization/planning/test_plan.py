"""The plan as a document."""

from __future__ import annotations

import json

import pytest

from qdbev.quantization.planning.plan import FLOAT_OPERATIONS, Plan, Site


def plan() -> Plan:
    conv = Site(path="a.conv", part="a", kind="conv2d", weight_bits=4, activation_bits=6, reason="r")
    norm = Site(path="b.norm", part="b", kind="float", weight_bits=32, activation_bits=32, reason="stays float")
    table = Site(path="b.table", part="b", kind="embedding", weight_bits=4, activation_bits=32, reason="r")
    return Plan(sites=(conv, norm, table), parts=("a", "b"))


def test_json_round_trip() -> None:
    assert Plan.from_json(json.loads(json.dumps(plan().to_json()))) == plan()


def test_quantized_sites_and_counts() -> None:
    assert [site.path for site in plan().quantized] == ["a.conv", "b.table"]
    assert plan().counts() == {("a", "conv2d"): 1, ("b", "float"): 1, ("b", "embedding"): 1}
    assert plan().site("b.norm").reason == "stays float"


def test_table_says_which_operations_stay_in_float() -> None:
    rows = plan().table()
    assert len(rows) == 3 + len(FLOAT_OPERATIONS)
    said = " ".join(row["path"] for row in rows if row["part"] == "(operations)")
    for word in ("softmax", "LayerNorm", "sampling_offsets", "box decoding"):
        assert word in said
    assert all(row["reason"] for row in rows)


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.pop("parts"),
        lambda d: d["sites"][0].pop("reason"),
        lambda d: d["sites"][0].update(kind="conv9d"),
        lambda d: d.update(more=1),
    ],
)
def test_damaged_documents_are_refused(damage: object) -> None:
    document = plan().to_json()
    damage(document)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"plan has the keys|site has the fields"):
        Plan.from_json(document)


def test_an_unknown_site_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no site 'c'"):
        plan().site("c")
