"""The chain of artifacts from the float detector to the distilled one, read from manifests alone (no torch)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.bit_plans import bits_label
from pipelines.locations import FLOAT, ZOO
from pipelines.store import Artifact, MissingArtifact, Store

WEIGHTS = "model.safetensors"
RESULTS = "results_nusc.json"
_SCORE = "evaluation"
_START = {"calibration": "float", "qat": "start", "vgd": "start", "qat-longer": "start"}
_OBJECTIVES = {
    "vgd": "VGD",
    "cwd_image": "CWD image",
    "cwd_bev": "CWD BEV",
    "fitnet_image": "hints image",
    "fitnet_bev": "hints BEV",
    "output_class": "classes",
    "output_box": "boxes",
}
SCORES = ("NDS", "mAP", "mATE", "mASE", "mAOE", "mAVE", "mAAE")


@dataclass(frozen=True)
class Link:
    """One model of the chain."""

    name: str
    """float, PTQ, QAT 1/4 (backbone), ..., QAT+VGD."""
    bits: str
    """W32A32, W4A6, ..."""
    model: Artifact
    """Where its weights are."""
    evaluation: Artifact | None
    """Its scores, if it was evaluated."""
    control: bool = False
    """Whether it is what others are held against."""

    @property
    def scores(self) -> dict[str, float | None]:
        """NDS, mAP and the errors; empty where it was not evaluated."""
        return {} if self.evaluation is None else {name: self.evaluation.manifest.metrics[name] for name in SCORES}  # type: ignore[misc]

    @property
    def cost(self) -> Mapping[str, Any]:
        """Nominal size and bit operations, where they are recorded."""
        source = self.evaluation if self.model.manifest.kind == FLOAT else self.model
        return {} if source is None else source.manifest.metrics

    @property
    def size_bytes(self) -> int | None:
        """Bytes of the file that would be deployed; None for a stage that still is partly float."""
        sealed = self.model.manifest.files.get(WEIGHTS)
        return sealed.bytes if sealed else None


def chain_of(
    last: Artifact,
    *,
    store: Store,
    controls: Iterable[Artifact] = (),
    evaluations: Iterable[Artifact] | None = None,
) -> list[Link]:
    """The models that led to ``last``, the float one first, with their evaluations.

    Args:
        last: The end of the chain.
        store: Holds the others.
        controls: Further models that are listed before ``last``.
        evaluations: Those to show, the later before the earlier of one model; None takes all of the store.

    Raises:
        MissingArtifact: A parent is not in the store any more.
    """
    if evaluations is None:
        evaluations = (artifact for artifact in store.list() if artifact.manifest.kind == _SCORE)
    of_model = {artifact.manifest.parents["model"]: artifact for artifact in evaluations}
    *models, end = lineage(last, store=store)
    ordered = [*((model, False) for model in models), *((model, True) for model in controls), (end, False)]
    return [
        Link(link_name(model, control=control), _bits(model), model, of_model.get(model.digest), control)
        for model, control in ordered
    ]


def lineage(last: Artifact, *, store: Store) -> list[Artifact]:
    """The model artifacts that led to ``last``, the first one first, itself last.

    Raises:
        MissingArtifact: A parent is not in the store any more.
    """
    known = {artifact.digest: artifact for artifact in (*Store.zoo(ZOO).list(), *store.list())}
    models = [last]
    while (role := _START.get(models[0].manifest.kind)) is not None:
        digest = models[0].manifest.parents[role]
        if digest not in known:
            raise MissingArtifact(
                f"{models[0].path.name} was made from artifact {digest[:12]}, which {store.root} lacks; --force makes "
                "the chain again"
            )
        models.insert(0, known[digest])
    return models


def controls_of(last: Artifact, *, store: Store) -> list[Artifact]:
    """What a claim about ``last`` is to be held against: float and QAT, trained as long without bits or teacher.

    Args:
        last: The end of a chain.
        store: Holds them, or not.
    """
    first, *others = lineage(last, store=store)
    steps = [int(str(model.manifest.metrics.get("steps", 0))) for model in others]
    sealed = store.list()
    trained = {one.digest: one for one in sealed if one.manifest.kind == FLOAT and "start" in one.manifest.parents}
    start = last.manifest.parents.get("start")
    found = {}
    for one in sealed:
        if one.digest in trained and _trained_on(one, first=first, trained=trained) == [step for step in steps if step]:
            found["float"] = one
        if one.manifest.kind == "qat-longer" and last.manifest.kind == "vgd" and one.manifest.parents["start"] == start:
            found["qat"] = one
    return [found[name] for name in ("float", "qat") if name in found]


def _trained_on(last: Artifact, *, first: Artifact, trained: Mapping[str, Artifact]) -> list[int]:
    """Steps of each training of a float control that led from ``first`` to ``last``; empty where it is none."""
    steps: list[int] = []
    digest = last.digest
    while digest != first.digest:
        if digest not in trained:
            return []
        manifest = trained[digest].manifest
        stated: Any = manifest.profile["float_training"]
        if not stated["freeze_batchnorm"]:
            return []
        steps.insert(0, int(str(manifest.metrics["steps"])))
        digest = manifest.parents["start"]
    return steps


def sealed_chain(compression: Artifact, *, store: Store) -> list[Link]:
    """The chain that a compression artifact stands for, with the very evaluations it was sealed with.

    Controls are listed before its end, where the store has evaluated ones.

    Raises:
        MissingArtifact: One of its artifacts is not in the store any more.
    """
    parents = compression.manifest.parents
    wanted = {digest for role, digest in parents.items() if role != "model"}
    evaluations = [artifact for artifact in store.list() if artifact.digest in wanted]
    if lost := wanted - {artifact.digest for artifact in evaluations}:
        raise MissingArtifact(f"{compression.path.name} needs evaluation {min(lost)[:12]}, which {store.root} lacks")
    last = store.open(parents["model"])
    controls = {model.digest: model for model in controls_of(last, store=store)}
    scored = [one for one in store.list() if one.manifest.kind == _SCORE and one.manifest.parents["model"] in controls]
    compared = {one.manifest.parents["model"] for one in scored}
    branches = [model for digest, model in controls.items() if digest in compared]
    return chain_of(last, store=store, controls=branches, evaluations=[*scored, *evaluations])


def link_name(model: Artifact, *, control: bool = False) -> str:
    """What tables call a model artifact."""
    data, kind = model.manifest.data, model.manifest.kind
    if kind == FLOAT:
        return "float longer" if control else "float"
    if kind == "qat":
        parts = data["parts"]
        assert isinstance(parts, list)
        return f"QAT {data['stage']}/{data['stages']}" + (f" (+{parts[-1]})" if len(parts) < 4 else "")
    if kind == "vgd":
        return f"QAT+{'+'.join(_OBJECTIVES.get(name, name) for name in _objectives(model))}"
    return {"calibration": "PTQ", "qat-longer": "QAT longer"}.get(kind, kind)


def _objectives(model: Artifact) -> list[str]:
    """What a distilled model was distilled by; the view-guided loss alone is not stated."""
    section = model.manifest.profile.get("distillation")
    stated = section.get("objectives") if isinstance(section, dict) else None
    return [str(name) for name in stated] if isinstance(stated, list) else ["vgd"]


def _bits(model: Artifact) -> str:
    if model.manifest.kind == FLOAT:
        return "W32A32"
    return bits_label(model)
