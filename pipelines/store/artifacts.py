"""The store: sealed artifacts in folders, found by key, verified at every opening, written whole or not at all.

An artifact is a folder ``<kind>-<profile>-<model>-<first 12 digits of its key>`` with ``manifest.json``, written last,
safetensors and small JSON files. It is written to a hidden folder of the same file system, pushed to the disk and
renamed: a process killed at any moment leaves either the artifact or nothing that counts.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.store import processes
from pipelines.store.integrity import (
    MANIFEST,
    DamagedArtifact,
    FutureArtifact,
    MissingArtifact,
    StoreUnwritable,
    UnusableInput,
    read_manifest,
    verify_folder,
)
from pipelines.store.naming import answers_to, model_name, moment
from pipelines.store.sealing import (
    describe,
    explained_writing,
    fit_umask,
    fsync_tree,
    move_into_place,
    unfinished_folder,
)
from profiles.home import expanded, is_file
from profiles.manifest import Manifest
from profiles.profile import Profile
from profiles.wording import counted, did_you_mean, quoted

__all__ = ["Artifact", "DamagedArtifact", "MissingArtifact", "Store", "StoreUnwritable", "UnusableInput"]

_SCRATCH = ".scratch"


@dataclass(frozen=True)
class Artifact:
    """A sealed folder and what its manifest says."""

    path: Path
    """The folder."""
    manifest: Manifest
    """Its manifest."""

    @property
    def digest(self) -> str:
        """The manifest's digest: what children record as their parent."""
        return self.manifest.digest

    def file(self, name: str) -> Path:
        """The path of one of its files.

        Raises:
            DamagedArtifact: If the manifest lists no such file.
        """
        if name not in self.manifest.files:
            raise DamagedArtifact(f"{self.path}: a {self.manifest.kind} artifact should hold {name}, this one does not")
        return self.path / name

    def summary(self) -> dict[str, str]:
        """Kind, name, path, digest and key as plain text."""
        manifest = self.manifest
        return {
            "kind": manifest.kind,
            "name": manifest.name,
            "path": str(self.path),
            "digest": self.digest,
            "key": manifest.key,
        }


class Store:
    """A folder of artifacts.

    Args:
        root: The folder; made when the first artifact is written.
        read_only: Refuse to write (the shipped zoo).
    """

    def __init__(self, root: str | Path, *, read_only: bool = False) -> None:
        self.root = expanded(root)
        self.read_only = read_only

    @classmethod
    def zoo(cls, path: str | Path) -> Store:
        """A read-only store, such as the shipped ``qdbev/zoo``."""
        return cls(path, read_only=True)

    # -- finding ---------------------------------------------------------------------------------------------------

    def folders(self) -> list[Path]:
        """Every artifact folder, damaged ones included, by name; hidden folders are scratch and do not count."""
        if not self.root.is_dir():
            return []
        visible = (path for path in sorted(self.root.iterdir()) if not path.name.startswith((".", "_")))
        return [path for path in visible if path.is_dir() and not path.is_symlink()]

    def list(self) -> list[Artifact]:
        """Artifacts whose manifest is sound, oldest first; files are not hashed (``open`` and ``verify`` do that).

        One that states no time of sealing, or one still to come, is not the newest: it stands before all others.
        """
        found = []
        for folder in self.folders():
            with contextlib.suppress(DamagedArtifact):
                found.append(Artifact(folder, read_manifest(folder)))
        return sorted(found, key=lambda artifact: moment(artifact.manifest))

    def find(self, kind: str, *, key: str) -> Artifact | None:
        """The verified artifact with this kind and key, or None if it was never sealed.

        Raises:
            DamagedArtifact: If it is there but damaged.
        """
        return processes.agreed(lambda: self._find(kind, key=key))

    def _find(self, kind: str, *, key: str) -> Artifact | None:
        for folder in self.folders():
            if folder.name.startswith(f"{kind}-") and folder.name.endswith(f"-{key[:12]}"):
                return self._verified_as(folder, kind=kind, key=key)
        matching = [one for one in self.list() if (one.manifest.kind, one.manifest.key) == (kind, key)]
        return self.verify(matching[0].path) if matching else None

    def last(self, kind: str, *, profile: str | None = None, model: str | None = None) -> Artifact | None:
        """The newest artifact of a kind, verified, or None.

        Args:
            kind: Kind wanted.
            profile: Name of the profile it was made with; None takes any.
            model: Name of the model; None takes any.

        Raises:
            DamagedArtifact: If the newest one is damaged, or one whose manifest cannot be read could be it; those that
                a later version sealed do not count.
        """
        for folder in self.folders():
            if folder.name.startswith("-".join(filter(None, (kind, profile, model if profile else None))) + "-"):
                with contextlib.suppress(FutureArtifact):
                    read_manifest(folder)
        for artifact in reversed(self.list()):
            stated = artifact.manifest.profile
            same_model = model is None or model_name(stated) == model
            if artifact.manifest.kind == kind and same_model and profile in (None, stated.get("name")):
                return self.verify(artifact.path)
        return None

    def open(self, ref: str | Path) -> Artifact:
        """The verified artifact somebody named.

        Args:
            ref: Its path, its folder name, the start of its digest or key (four digits or more, unique), or
                ``kind:name`` (the newest one), such as ``qat:w4a6-nano``.

        Raises:
            MissingArtifact: If nothing, or more than one artifact, has that name.
            DamagedArtifact: If it is damaged.
        """
        return self.verify(self.locate(ref))

    def locate(self, ref: str | Path) -> Path:
        """The folder of the artifact somebody named, unread but for its manifest; see ``open``."""
        text = str(ref)
        for folder in (expanded(text), self.root / text):
            if text and (is_file(folder / MANIFEST) or folder in self.folders()):
                return folder
        found = [one for one in self.list() if answers_to(one.manifest, text)]
        if ":" in text:
            found = found[-1:]
        if len(found) == 1:
            return found[0].path
        if found:
            names = ", ".join(one.path.name for one in found)
            raise MissingArtifact(f"more than one artifact is called {quoted(text)} in {self.root}: {names}")
        raise MissingArtifact(f"there is no artifact {quoted(text)} in {self.root}{self._nearest(text)}")

    def _nearest(self, text: str) -> str:
        """A question with the name that is most like one, else how many artifacts there are."""
        names = [f"{one.manifest.kind}:{one.manifest.name}" for one in self.list()] if ":" in text else []
        folders = [folder.name for folder in self.folders()]
        if not folders:
            return ", which is empty"
        hint = did_you_mean(text, names or folders)
        return hint or f"; `qdbev artifacts list` shows the {counted(len(folders), 'artifact')} there"

    def verify(self, artifact: Artifact | str | Path) -> Artifact:
        """Check every byte of an artifact.

        Raises:
            DamagedArtifact: Naming the folder and the file.
        """
        folder = artifact.path if isinstance(artifact, Artifact) else Path(artifact)
        try:
            return Artifact(folder, verify_folder(folder))
        except DamagedArtifact as error:
            hint = "delete the folder to have it made again" if not self.read_only else "install qdbev again"
            raise DamagedArtifact(f"artifact {folder.name} is refused: {error}; {hint}") from None

    def _verified_as(self, folder: Path, *, kind: str, key: str) -> Artifact:
        artifact = self.verify(folder)
        if (artifact.manifest.kind, artifact.manifest.key) != (kind, key):
            held = f"holds a {artifact.manifest.kind} artifact of key {artifact.manifest.key[:12]}"
            raise DamagedArtifact(f"artifact {folder.name} is refused: it {held}, which is not what its name says")
        return artifact

    # -- writing ---------------------------------------------------------------------------------------------------

    def seal(
        self,
        kind: str,
        *,
        profile: Profile,
        key: str,
        write: Callable[[Path], object],
        parents: Mapping[str, str] | None = None,
        data: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        packages: Mapping[str, str] | None = None,
        notes: tuple[str, ...] = (),
        seconds: Mapping[str, float] | None = None,
        replace: bool = False,
    ) -> Artifact:
        """Write an artifact, whole or not at all; of several processes, which must all call it, the first one writes.

        Args:
            kind: Kind, such as ``qat``.
            profile: The profile as used; its names go into the folder's.
            key: Fingerprint (64 hexadecimal digits) of what decides the content.
            write: Called with an empty folder, writes the files into it (flat or in sub-folders, no pickle).
            parents: Digests of parent artifacts by role.
            data: Digest of the data split, sample tokens and the like.
            metrics: Numbers, nested freely; NaN and infinity become null.
            packages: Versions of packages.
            notes: Sentences worth keeping.
            seconds: Durations; outside the digest.
            replace: Put it in the place of one that is there (``--force``); otherwise the first one wins.

        Returns:
            The sealed artifact: this one, or the equal one another process sealed first.

        Raises:
            StoreUnwritable: If the disk is full or the store cannot be written. Nothing is left behind.
            DamagedArtifact: If ``write`` left a pickle or a broken safetensors file.
        """
        if self.read_only:
            raise StoreUnwritable(f"{self.root} is read-only")
        fields = {"parents": parents, "data": data, "metrics": metrics, "packages": packages, "notes": notes}
        target = self.place(kind, profile=profile, key=key)

        def sealed() -> Artifact:
            with unfinished_folder(self.root) as folder:
                write(folder)
                manifest = describe(folder, kind=kind, profile=profile, key=key, fields=fields, seconds=seconds or {})
                (folder / MANIFEST).write_bytes(manifest.to_bytes())
                fit_umask(folder)
                fsync_tree(folder)
                move_into_place(folder, target=target, replace=replace)
            self.discard_scratch(kind, key=key)
            return self.verify(target)

        return processes.agreed(sealed)

    def adopt(self, artifact: Artifact) -> Artifact:
        """A verified copy of another store's artifact in this one; the artifact itself if it is here already.

        Raises:
            StoreUnwritable: If the disk is full or the store cannot be written.
            DamagedArtifact: If it is damaged.
        """
        target = self.root / artifact.path.name

        def adopted() -> Artifact:
            if not target.exists():
                with unfinished_folder(self.root) as folder:
                    shutil.copytree(self.verify(artifact).path, folder, dirs_exist_ok=True)
                    fit_umask(folder)
                    fsync_tree(folder)
                    move_into_place(folder, target=target, replace=False)
            return self.verify(target)

        return processes.agreed(adopted)

    def place(self, kind: str, *, profile: Profile, key: str) -> Path:
        """The folder that an artifact has or will have."""
        return self.root / f"{kind}-{profile.name}-{profile.model.name}-{key[:12]}"

    def scratch(self, kind: str, *, key: str) -> Path:
        """The folder for resume state of an unfinished stage, made if need be; ``seal`` of the same key removes it.

        Raises:
            StoreUnwritable: If it cannot be made.
        """
        folder = self.scratch_path(kind, key=key)
        with explained_writing(self.root):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def discard_scratch(self, kind: str, *, key: str) -> None:
        """Remove the resume state of a stage, if there is any."""
        shutil.rmtree(self.scratch_path(kind, key=key), ignore_errors=True)

    def scratch_path(self, kind: str, *, key: str) -> Path:
        """Where that folder is, or would be."""
        return self.root / _SCRATCH / f"{kind}-{key[:12]}"
