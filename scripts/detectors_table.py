"""Print docs/table5.md, the paper's Table 5 for the small detectors of every family, from the runs that were measured.

python scripts/detectors_table.py > docs/table5.md
"""

from __future__ import annotations

import argparse
import json
from statistics import mean, stdev
from typing import Any

from method_rows import FLOAT, LEDGER, LEDGER_OF_OTHERS, METHODS, NANO
from tabulate import tabulate

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
)
"""Row of the page, method, bits, and the paper's name of it."""
PRINTED = {
    "nano-bevdepth": {"FP32": 0.435, "DFQ": 0.377, "HAWQ": 0.206, "PACT": 0.362, "QD-BEV": 0.394},
    "nano-petr": {"FP32": 0.366, "DFQ": 0.343, "HAWQ": 0.216, "PACT": 0.320, "QD-BEV": 0.334},
}
"""NDS of QD-BEV's Table 5: BEVDepth-T and PETR-r50dcn, on nuScenes."""
HEADER = """# Table 5: other detectors

The paper's Table 5 has BEVDepth and PETR on nuScenes. Here are small detectors of other families on 64 held-out
synthetic scenes, scored by nuscenes-devkit. `python scripts/measure_methods.py --model nano-detr3d` makes the runs,
by the rows of [methods.md](methods.md), and writes them into `docs/detectors.json`.
`python scripts/detectors_table.py` prints this page. A cell is NDS, and the share of float's that is kept; with a
deviation and a number where there are several seeds. A dash was not made.
"""

READING = """What is alike so far: calibration by min-max at W4A6 loses the most, ranges of least squared error with
compensated rounding win most of it back without a step of training, and bits chosen layer by layer win nearly all of
the rest. DETR3D loses more to plain calibration than BEVFormer, BEVDet4D less. DETR3D sees single frames, so its
velocities are guesses, and NDS counts them as nothing, in float too. BEVDet4D's shipped weights are bytes already:
its float row is what these bytes score."""


def main() -> None:
    """Print the page."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(page(read()), end="")


def read() -> list[Run]:
    """The runs of all models."""
    return [run for ledger in (LEDGER, LEDGER_OF_OTHERS) for run in json.loads(ledger.read_text(encoding="utf-8"))]


def page(runs: list[Run]) -> str:
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
    return "\n".join([HEADER, table, "", made, "", READING, "", "## The paper's", "", papers, ""])


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
