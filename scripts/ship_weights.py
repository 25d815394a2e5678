"""Copy a float artifact into the zoo: the same weights, a manifest that names no folder of the machine that trained it.

python scripts/ship_weights.py runs/float-float-nano-0123456789ab --note "trained by two processes"
python scripts/ship_weights.py runs/float-float-nano-petr-0123456789ab --bytes   # a quarter of the size; score it after
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from pipelines.assembly.detector import build_detector
from pipelines.assembly.tensors import in_bytes, read_tensors, write_tensors
from pipelines.lineage.kinds import WEIGHTS
from pipelines.store.artifacts import Artifact, Store
from pipelines.store.integrity import seal_of
from pipelines.store.locations import ZOO
from profiles.manifest import Record
from profiles.sections.model import sealed_model

MANIFEST = "manifest.json"


def main() -> None:
    """Parse the command line and copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--note", action="append", default=[], help="a sentence worth keeping in the manifest")
    parser.add_argument("--bytes", action="store_true", help="write trained weights as bytes with a scale for each row")
    options = parser.parse_args()
    artifact = Store(options.artifact.parent).open(options.artifact)
    target = ZOO / artifact.path.name
    for older in Store.zoo(ZOO).folders():
        if older.name.rpartition("-")[0] == target.name.rpartition("-")[0]:
            shutil.rmtree(older)
    shutil.copytree(artifact.path, target)
    notes = [*artifact.manifest.notes, *options.note]
    files = dict(artifact.manifest.files)
    if options.bytes:
        _write_bytes(artifact, path=target / WEIGHTS)
        files[WEIGHTS] = seal_of(target / WEIGHTS)
        notes.append("weights are bytes with a scale for each row")
    record = Record(created=artifact.manifest.record.created, seconds=artifact.manifest.record.seconds)
    update = {"record": record, "notes": notes, "files": files}
    (target / MANIFEST).write_bytes(artifact.manifest.model_copy(update=update).to_bytes())
    print(Store.zoo(ZOO).verify(target).summary())


def _write_bytes(artifact: Artifact, *, path: Path) -> None:
    stated = artifact.manifest
    model: Any = stated.profile["model"]
    detector = build_detector(sealed_model(model, circumstances=stated.record.circumstances))
    trained = [name for name, value in detector.named_parameters() if value.requires_grad and value.dim() > 1]
    write_tensors(path, in_bytes(read_tensors(artifact.file(WEIGHTS)), names=trained))


if __name__ == "__main__":
    main()
