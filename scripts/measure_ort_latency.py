"""Measures each layer of an exported detector in ONNX Runtime on this machine's CPU, as a table that bit plans take.

    python scripts/measure_ort_latency.py latency.csv onnx:w4a6-nano [--store runs] [--threads 1]
    qdbev sensitivity --plan --target ort --budget latency=0.9 --set bit_plan.latency_table=latency.csv

Layers run where they stand in the graph, with weights of 4 and of 8 bits; the runtime's profile says what each took.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch

import profiles
from pipelines.assembly.job import Job
from pipelines.costs.latency import device_name
from pipelines.exporting.layer_times import LayerTime, layer_times
from pipelines.lineage.models import as_made
from pipelines.store.artifacts import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="CSV file to write")
    parser.add_argument("export", help="an ONNX export, as the store names it")
    parser.add_argument("--store", type=Path, default=Path("runs"))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    store = Store(arguments.store)
    model = store.open(store.open(arguments.export).manifest.parents["model"])
    job = Job(as_made(model, profile=profiles.load("w4a6")), store)
    rows = list(layer_times(job, model=model))
    with arguments.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(LayerTime._fields)
        writer.writerows(rows)
    print(f"{arguments.out}: {len({row.path for row in rows}) - 1} layers on {device_name(torch.device('cpu'))}")


if __name__ == "__main__":
    main()
