"""Copy a float artifact into the zoo: the same files, a manifest that names no folder of the machine that trained it.

python scripts/ship_weights.py runs/float-float-nano-0123456789ab --note "trained by two processes"
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from pipelines.store.artifacts import Store
from pipelines.store.locations import ZOO
from profiles.manifest import Record

MANIFEST = "manifest.json"


def main() -> None:
    """Parse the command line and copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--note", action="append", default=[], help="a sentence worth keeping in the manifest")
    options = parser.parse_args()
    artifact = Store(options.artifact.parent).open(options.artifact)
    manifest = artifact.manifest
    plain = Record(created=manifest.record.created, seconds=manifest.record.seconds)
    shipped = manifest.model_copy(update={"record": plain, "notes": [*manifest.notes, *options.note]})
    for older in Store.zoo(ZOO).folders():
        if older.name.split("-")[-2] == artifact.path.name.split("-")[-2]:
            shutil.rmtree(older)
    target = ZOO / artifact.path.name
    shutil.copytree(artifact.path, target)
    (target / MANIFEST).write_bytes(shipped.to_bytes())
    print(Store.zoo(ZOO).verify(target).summary())


if __name__ == "__main__":
    main()
