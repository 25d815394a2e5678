"""Whatever an artifact stands on is checked, through all generations; a damaged ancestor is refused by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

import profiles
from pipelines.lineage.standing import refuse_unreadable, verify_standing
from pipelines.store.artifacts import Artifact, DamagedArtifact, Store


def seal(store: Store, kind: str, **parents: Artifact) -> Artifact:
    return store.seal(
        kind,
        profile=profiles.load("w4a6"),
        key=profiles.fingerprint(kind),
        write=lambda folder: (folder / "x.json").write_text(f'"{kind}"'),
        parents={role: artifact.digest for role, artifact in parents.items()},
    )


@pytest.fixture
def chain(tmp_path: Path) -> dict[str, Artifact]:
    """float <- calibration <- qat <- vgd (its teacher: float), the evaluation of vgd, and a stranger."""
    store = Store(tmp_path)
    start = seal(store, "float")
    calibration = seal(store, "calibration", float=start)
    trained = seal(store, "qat", start=calibration)
    distilled = seal(store, "vgd", start=trained, teacher=start)
    scored = seal(store, "evaluation", model=distilled)
    made = (start, calibration, trained, distilled, scored, seal(store, "sensitivity"))
    return {artifact.manifest.kind: artifact for artifact in made}


def test_a_sound_chain_stands(tmp_path: Path, chain: dict[str, Artifact]) -> None:
    verify_standing([chain["evaluation"]], store=Store(tmp_path))
    verify_standing([], store=Store(tmp_path))


@pytest.mark.parametrize("kind", ["float", "calibration", "qat", "vgd", "evaluation"])
@pytest.mark.parametrize("file", ["x.json", "manifest.json"])
def test_any_damaged_ancestor_is_refused_by_name(
    tmp_path: Path, chain: dict[str, Artifact], kind: str, file: str
) -> None:
    damaged = chain[kind].path / file
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(DamagedArtifact, match=f"{chain[kind].path.name}.*{file}"):
        verify_standing([chain["evaluation"]], store=Store(tmp_path))


def test_a_damaged_stranger_matters_to_nobody(tmp_path: Path, chain: dict[str, Artifact]) -> None:
    (chain["sensitivity"].path / "x.json").write_text("")
    verify_standing([chain["evaluation"]], store=Store(tmp_path))


def test_an_ancestor_that_was_deleted_is_not_damage(tmp_path: Path, chain: dict[str, Artifact]) -> None:
    for path in chain["qat"].path.iterdir():
        path.unlink()
    chain["qat"].path.rmdir()
    verify_standing([chain["evaluation"]], store=Store(tmp_path))


def test_folders_of_another_name_are_not_asked(tmp_path: Path, chain: dict[str, Artifact]) -> None:
    (chain["qat"].path / "manifest.json").write_text("")
    refuse_unreadable(["w4a4-nano"], store=Store(tmp_path))
    with pytest.raises(DamagedArtifact, match=chain["qat"].path.name):
        refuse_unreadable(["w4a4-nano", "w4a6-nano"], store=Store(tmp_path))
