"""A budget of measured latency: the table as it is read, what it must hold, and plans that keep it."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

import profiles
from pipelines.assembly.detector import build_detector
from pipelines.assembly.quantized import detector_plan
from pipelines.bit_planning.candidates import Choice
from pipelines.bit_planning.costs import timed_costs
from pipelines.bit_planning.latency_table import Timed, read_latency_table, table_digest
from pipelines.bit_planning.problem import bit_pairs, make_problem
from pipelines.store.integrity import UnusableInput
from qdbev.quantization import MacLine, Plan, Site, choose_bits

HEADER = "path,weight_bits,activation_bits,milliseconds\n"
BITS = (4, 8)


def rows(**milliseconds: float) -> list[dict[str, Any]]:
    """Every pair of bits for layers that take a time in float and, at fewer bits, the share of their product."""
    return [
        {"path": path, "weight_bits": w, "activation_bits": a, "milliseconds": time * w * a / 1024}
        for path, time in milliseconds.items()
        for w, a in [(32, 32), *((w, a) for w in BITS for a in BITS)]
    ]


def written(folder: Path, content: list[dict[str, Any]], *, name: str = "table.json") -> Path:
    file = folder / name
    if file.suffix == ".json":
        file.write_text(json.dumps(content))
    else:
        file.write_text(HEADER + "".join(",".join(str(one) for one in row.values()) + "\n" for row in content))
    return file


def test_csv_and_json_say_the_same_in_any_order(tmp_path: Path) -> None:
    content = rows(a=1.0, b=0.25)
    table = read_latency_table(written(tmp_path, content))
    assert table[Timed("b", 32, 32)] == 250_000 and table[Timed("a", 4, 8)] == 31_250
    other = read_latency_table(written(tmp_path, content[::-1], name="table.csv"))
    assert other == table and table_digest(other) == table_digest(table)
    slower = table | {Timed("a", 4, 8): 31_251}
    assert table_digest(slower) != table_digest(table)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (HEADER + "a,8,8,0.1\na,8,8,0.2\n", "has a twice at W8A8"),
        (HEADER + "a,8,8,fast\n", "row 0 milliseconds: Input should be a valid number"),
        (HEADER + "a,8,8\n", "row 0 milliseconds"),
        (HEADER + "a,8,8,nan\n", "row 0 milliseconds"),
        (HEADER + "a,8,8,0.1\na,1,8,0.1\n", "row 1 weight_bits"),
        ("path,bits,milliseconds\na,8,0.1\n", "row 0 weight_bits: Field required"),
        (HEADER + "a,8,8,0\n", "no time above zero"),
        (HEADER, "no time above zero"),
    ],
)
def test_what_is_no_table_is_refused_by_its_row(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(UnusableInput, match=sentence):
        read_latency_table(tmp_path / "table.csv")


def test_a_file_that_is_not_there_or_no_json_is_said(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text("{")
    for name in ("table.json", "none.csv"):
        with pytest.raises(UnusableInput, match=rf"the latency table .*{name} cannot be read"):
            read_latency_table(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("null", "is refused"),
        ('{"a": 1}', "is refused"),
        ("[[3]]", "row 0"),
        ("[" * 100_000, "cannot be read"),
        ('[{"path": [], "weight_bits": {}, "activation_bits": 8, "milliseconds": "x"}]', "row 0 path"),
    ],
)
def test_json_of_another_type_is_no_table(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(UnusableInput, match=sentence):
        read_latency_table(tmp_path / "table.json")


def test_a_device_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "table.csv").symlink_to("/dev/zero")
    with pytest.raises(UnusableInput, match="is no file"):
        read_latency_table(tmp_path / "table.csv")


def problem(table: dict[Timed, int], *words: str) -> Any:
    """Layers a and b, an embedding table, and a layer in float."""
    common: dict[str, Any] = {"part": "neck", "weight_bits": 4, "reason": ""}
    sites = (
        Site(path="a", kind="linear", activation_bits=6, **common),
        Site(path="b", kind="linear", activation_bits=6, **common),
        Site(path="t", kind="embedding", activation_bits=32, **common),
    )
    losses = {Choice(path, "weights", bits): 1.0 / bits for path in ("a", "b", "t") for bits in BITS}
    losses |= {Choice(path, "inputs", bits): 0.5 / bits for path in ("a", "b") for bits in BITS}
    macs = [MacLine(path=path, kind="linear", macs=10, calls=1) for path in ("a", "b", "f")]
    words = ("bit_plan.candidates=[4,8]", "bit_plan.latency=0.5", *words)
    return make_problem(
        Plan(sites=sites, parts=("neck",)),
        losses=losses,
        weights={"a": 10, "b": 10, "t": 10},
        macs=macs,
        trainable=50,
        profile=profiles.load("w4a6", overrides=words),
        times=table,
    )


def test_the_budget_is_a_share_of_the_widest_bits_and_other_rows_are_fixed(tmp_path: Path) -> None:
    content = [*rows(a=1.0, b=0.25), {"path": "f", "weight_bits": 32, "activation_bits": 32, "milliseconds": 0.5}]
    found = problem(read_latency_table(written(tmp_path, content)))
    assert (found.fixed["latency"], found.whole["latency"]) == (500_000, 1_750_000)
    assert {len(each) for path, each in found.options.items() if path != "t"} == {4}  # inputs are chosen too
    assert {one.latency for one in found.options["t"]} == {0}
    chosen = choose_bits(found, budgets={"latency": 0.315})
    assert found.share(chosen, resource="latency") <= 0.315
    assert (chosen["a"].weight_bits, chosen["a"].activation_bits) == (8, 4)  # the slow layer gives its input's bits
    assert (chosen["b"].weight_bits, chosen["b"].activation_bits) == (8, 8)


def test_without_float_rows_the_share_is_of_the_widest_there_are(tmp_path: Path) -> None:
    content = [row for row in rows(a=1.0, b=0.25) if row["weight_bits"] < 32]
    assert problem(read_latency_table(written(tmp_path, content))).whole["latency"] == round(1.25e6 * 64 / 1024)


def test_traces_leave_inputs_at_the_profiles_bits(tmp_path: Path) -> None:
    table = read_latency_table(written(tmp_path, rows(a=1.0, b=0.25)))
    with pytest.raises(ValueError, match=r"lacks 4 of 6 rows.*: a at W4A6, W8A6; b at W4A6, W8A6"):
        problem(table, "bit_plan.criterion=hessian")


def test_missing_rows_are_one_error_that_lists_them(tmp_path: Path) -> None:
    content = [row for row in rows(a=1.0, b=0.25) if (row["path"], row["weight_bits"]) != ("b", 4)]
    with pytest.raises(ValueError, match=r"lacks 2 of 10 rows that this plan needs: b at W4A4, W4A8$"):
        problem(read_latency_table(written(tmp_path, content)))


def test_a_table_of_another_model_is_refused(tmp_path: Path) -> None:
    table = read_latency_table(written(tmp_path, rows(a=1.0, b=0.25, other=1.0)))
    with pytest.raises(ValueError, match=r"times other at W4A4, which is no quantized layer here \(4 such rows\)"):
        problem(table)


def test_costs_are_exact_sums(tmp_path: Path) -> None:
    table = {Timed("a", 8, 8): 3, Timed("b", 8, 8): 4, Timed("rest", 8, 8): 5}
    found = timed_costs(table, pairs={"a": [(8, 8)], "b": [(8, 8)]})
    assert (found.rest, found.whole) == (5, 12)


def test_pairs_of_bits_are_those_of_the_options() -> None:
    site = Site(path="a", part="neck", kind="linear", weight_bits=4, activation_bits=6, reason="")
    plan = Plan(sites=(site,), parts=("neck",))
    free = profiles.load("w4a6", overrides=["bit_plan.candidates=[4,8]", "bit_plan.latency=0.5"])
    assert bit_pairs(plan, profile=free)["a"] == [(4, 4), (4, 8), (8, 4), (8, 8)]
    fixed = profiles.load("w4a6", overrides=["bit_plan.candidates=[4,8]", "bit_plan.bytes=5"])
    assert bit_pairs(plan, profile=fixed)["a"] == [(4, 6), (8, 6)]


@pytest.mark.slow
def test_a_table_of_this_machine_holds_every_layer_that_runs(
    tmp_path: Path, mite: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "latency.csv"
    script = Path(__file__).parents[3] / "scripts" / "measure_layer_latency.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(file), "--model", mite, "--repeats", "1"])
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    assert "float32" in printed and "int8" in printed
    table, profile = read_latency_table(file), profiles.load("w4a6", model=mite, overrides=["bit_plan.latency=0.9"])
    plan = detector_plan(build_detector(profile.model), section=profile.quantization)
    running = {site.path for site in plan.quantized if site.kind != "embedding"}
    pairs = {path: of_layer for path, of_layer in bit_pairs(plan, profile=profile).items() if path in running}
    found = timed_costs(table, pairs=pairs)
    assert found.whole == sum(time for timed, time in table.items() if timed.bits == (32, 32)) and found.rest == 0
