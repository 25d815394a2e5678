"""Print docs/table5.md, the paper's Table 5 for the small detectors of every family, from the runs that were measured.

python scripts/detectors_table.py > docs/table5.md
python scripts/detectors_table.py --take runs > docs/table5.md   # with the sensitivities of a store (docs/parts.json)
"""

from __future__ import annotations

import argparse
import json
from statistics import mean, stdev
from typing import Any

from method_rows import FLOAT, LEDGER, LEDGER_OF_OTHERS, METHODS, NANO
from tabulate import tabulate

from pipelines.lineage.kinds import SENSITIVITY
from pipelines.store.artifacts import Store

Run = dict[str, Any]

FAMILIES = {
    NANO: "BEVFormer",
    "nano-petr": "PETR",
    "nano-detr3d": "DETR3D",
    "nano-bevdepth": "BEVDepth",
    "nano-bevdet4d": "BEVDet4D",
}
"""Model -> the family that it is of, in the order of the page."""
ROWS = (
    ("float", FLOAT, "w8a8", "FP32"),
    ("float, trained on in the stages of ours", "float-longer", "w8a8", ""),
    ("DFQ, W8A8", "dfq", "w8a8", "DFQ"),
    ("PTQ, min-max, W4A6", "min-max", "w4a6", ""),
    ("HAWQ-V3, W4A6", "hawq-v3", "w4a6", "HAWQ"),
    ("PACT, W4A6", "pact", "w4a6", "PACT"),
    ("ours without a step, W4A6", "start", "w4a6", ""),
    ("ours, W4A6", "ours", "w4a6", ""),
    ("ours and VGD, W4A6", "ours-vgd", "w4a6", "QD-BEV"),
    ("ours without a step, mixed bits, W4A6", "start-mixed", "w4a6", ""),
    ("ours without a step, mixed bits, W4A4", "start-mixed", "w4a4", ""),
    ("ours, mixed bits, W4A6", "ours-mixed", "w4a6", ""),
)
"""Row of the page, method, bits, and the paper's name of it."""
PRINTED = {
    "nano-bevdepth": {"FP32": 0.435, "DFQ": 0.377, "HAWQ": 0.206, "PACT": 0.362, "QD-BEV": 0.394},
    "nano-petr": {"FP32": 0.366, "DFQ": 0.343, "HAWQ": 0.216, "PACT": 0.320, "QD-BEV": 0.334},
}
"""NDS of QD-BEV's Table 5: BEVDepth-T and PETR-r50dcn, on nuScenes."""
PARTS_ALONE = LEDGER.with_name("parts.json")
"""Model -> scenes, bits and NDS of each row of its sensitivity, with the interval of its difference to float."""
HEADER = """# Table 5: other detectors

The paper's Table 5 has BEVDepth and PETR on nuScenes. Here are small detectors of other families on 64 held-out
synthetic scenes, scored by nuscenes-devkit. `python scripts/measure_methods.py --model nano-detr3d` makes the runs,
by the rows of [methods.md](methods.md), and writes them into `docs/detectors.json`.
`python scripts/detectors_table.py` prints this page. A cell is NDS, and the share of float's that is kept; with a
deviation and a number where there are several seeds. A dash was not made.
"""

READING = """What is alike: calibration by min-max at W4A6 loses the most. Ranges of least squared error with
compensated rounding win a part of it back without a step of training. Bits chosen layer by layer are the best W4A6 of
all five families. The neck hardly loses anything.

Which part loses the most differs. In PETR and DETR3D it is the decoder, as in `nano`
([sensitivity.md](sensitivity.md), on six scenes). BEVDet4D's decoder is a few
convolutions and loses little; its encoder, the network on the ground, loses the most. BEVDepth's decoder is alike, and
loses as much as its encoder: their intervals overlap.

PETR breaks by far the most. A third of its score goes with plain calibration, W8A8 by DFQ costs it 2.8 %, and uniform
W4A6 without a step keeps 79 %. Training in stages, 470 steps of one seed, brings that to 90 %. Distillation adds 0.002;
the interval of its difference to float is 0.009 wide. PACT and HAWQ-V3 keep 81 and 80 %. None of them reaches the 95 %
that bits of its own keep without a step. These bits, trained in the same stages, keep 97.7 %, 0.007 [0.004, 0.010]
less than the float control. So training helps mixed bits in PETR, 95.1 to 97.7 %, and costs them in BEVFormer, 99.6 to
98.3 %, and in DETR3D, 99.8 to 98.5 %. Uniform bits of DETR3D gain by it, 96.6 to 97.7 %; distillation changes nothing.
PETR's bit plan spends 8 bits on the inputs of the layers that make positions and
of the attention to image cells, and on the last weights of both branches. DETR3D loses more than BEVFormer,
BEVDet4D less. BEVDepth keeps 71 % with plain calibration, 93 % with ours without a step, and 98 % with mixed bits.

PETR and DETR3D see single frames, so their velocities are guesses, and NDS counts them as nothing, in float too.
BEVDet4D's and BEVDepth's shipped weights are bytes already: their float rows are what these bytes score."""

SCENES = 64
WHICH_PART = f"""## Which part breaks

NDS less float's, with its 95 % interval over {SCENES} scenes, and the share of float's that is left. Each part alone is
quantized to W4A6, calibrated by min-max as `qdbev sensitivity --model nano-petr` does it.
"""


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take", metavar="STORE", help="a store whose sensitivities, part by part, are taken up first")
    store = parser.parse_args().take
    if store is not None:
        PARTS_ALONE.write_text(json.dumps(parts_alone() | taken(Store(store)), indent=1) + "\n", encoding="utf-8")
    print(page(read(), parts=parts_alone()), end="")


def parts_alone() -> Run:
    """The sensitivities of the page."""
    document: Run = json.loads(PARTS_ALONE.read_text(encoding="utf-8")) if PARTS_ALONE.exists() else {}
    return document


def taken(store: Store) -> Run:
    """The sensitivities of a store, part by part, by model."""
    sealed: list[Any] = [artifact.manifest for artifact in store.list() if artifact.manifest.kind == SENSITIVITY]
    return {
        manifest.profile["model"]["name"]: {
            "scenes": manifest.data["scenes"],
            "bits": manifest.profile["name"].upper(),
            "rows": {
                row["name"]: [round(row[key], 5) for key in ("NDS", "NDS_low", "NDS_high") if key in row]
                for row in manifest.metrics["rows"]
            },
        }
        for manifest in sealed
        if _is_of_the_page(manifest)
    }


def _is_of_the_page(manifest: Any) -> bool:
    """Whether a sensitivity is of parts, in uniform W4A6, on the scenes that the page speaks of."""
    bits = manifest.profile["quantization"]
    uniform = (bits["weight_bits"], bits["activation_bits"], bits["plan"]) == (4, 6, None)
    return uniform and (manifest.data["level"], manifest.data["scenes"]) == ("part", SCENES)


def read() -> list[Run]:
    """The runs of all models."""
    return [run for ledger in (LEDGER, LEDGER_OF_OTHERS) for run in json.loads(ledger.read_text(encoding="utf-8"))]


def page(runs: list[Run], *, parts: Run) -> str:
    """The whole page."""
    models = [model for model in FAMILIES if scores(runs, model=model, method=FLOAT, bits="w8a8")]
    rows = [
        [title, *(cell(runs, model=model, method=method, bits=bits) for model in models)]
        for title, method, bits, _ in ROWS
    ]
    table = tabulate(rows, headers=["NDS", *(f"{FAMILIES[model]}, `{model}`" for model in models)], tablefmt="github")
    printed = [[title, *(PRINTED[model].get(name, "-") for model in PRINTED)] for title, _, _, name in ROWS if name]
    papers = tabulate(
        printed, headers=["NDS, as printed", *(FAMILIES[model] for model in PRINTED)], tablefmt="github", floatfmt=".3f"
    )
    places = sorted({f"{run['device']} (torch {run['torch']})" for run in runs if run.get("model")})
    made = f"Made on: {'; '.join(places)}; those of `{NANO}` as methods.md says." if places else ""
    apart = [WHICH_PART, parts_table(parts), ""] if parts else []
    return "\n".join([HEADER, table, "", made, "", READING, "", *apart, "## The paper's", "", papers, ""])


def parts_table(parts: Run) -> str:
    """Of every model, what each part alone costs, and all together: NDS less float's, with its interval."""
    models = [model for model in FAMILIES if model in parts]
    rows = []
    for name in ("backbone", "neck", "encoder", "decoder", "all"):
        cells = [_lost(parts[model]["rows"], name) for model in models]
        rows.append([name, *cells])
    return tabulate(rows, headers=["part in W4A6", *(FAMILIES[model] for model in models)], tablefmt="github")


def _lost(rows: dict[str, list[float]], name: str) -> str:
    if name not in rows:
        return "has none"
    nds, low, high = rows[name]
    whole = rows["float"][0]
    return f"{nds - whole:+.3f} [{low:+.3f}, {high:+.3f}], {nds / whole:.1%}"


def cell(runs: list[Run], *, model: str, method: str, bits: str) -> str:
    """NDS of a row, and how much of the float detector's it is."""
    found = scores(runs, model=model, method=method, bits=bits)
    if not found:
        return "-"
    share = mean(found) / mean(scores(runs, model=model, method=FLOAT, bits="w8a8"))
    spread = f" ± {stdev(found):.4f} ({len(found)})" if len(found) > 1 else ""
    return f"{mean(found):.4f}{spread}" + ("" if method == FLOAT else f", {share:.1%}")


def scores(runs: list[Run], *, model: str, method: str, bits: str) -> list[float]:
    """NDS of every seed."""
    assert method in METHODS, method
    wanted = (model, method, bits)
    return [run["NDS"] for run in runs if (run.get("model", NANO), run["method"], run["bits"]) == wanted]


if __name__ == "__main__":
    main()
