"""The chain of artifacts from the float detector to the distilled one, read from manifests alone (no torch)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pipelines.lineage.bit_plan import bits_label
from pipelines.lineage.float_control import float_key, training_of_control
from pipelines.lineage.kinds import (
    CALIBRATION,
    EVALUATION,
    FLOAT,
    QAT,
    QAT_LONGER,
    SCORES,
    START,
    VGD,
    WEIGHTS,
)
from pipelines.store.artifacts import Artifact, MissingArtifact, Store
from pipelines.store.locations import ZOO
from profiles.sections.distillation import OBJECTIVE_WORDS
from profiles.sections.schedule import FloatSchedule

_SETTINGS_OF_SCORE = ("split", "max_boxes", "data")


@dataclass(frozen=True)
class Link:
    """One model of the chain."""

    name: str
    """float, PTQ, QAT 1/4 (backbone), ..., QAT+VGD."""
    bits: str
    """W32A32, W4A6, ...; of a stage that leaves parts in float ``partly W4A6``."""
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
        evaluations = (artifact for artifact in store.list() if artifact.manifest.kind == EVALUATION)
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
    while (role := START.get(models[0].manifest.kind)) is not None:
        digest = models[0].manifest.parents[role]
        if digest not in known:
            raise MissingArtifact(
                f"{models[0].path.name} was made from artifact {digest[:12]}, which {store.root} lacks; --force makes "
                "the chain again"
            )
        models.insert(0, known[digest])
    return models


def controls_of(last: Artifact, *, store: Store) -> list[Artifact]:
    """What a claim about ``last`` is to be held against: float and QAT, trained as it was without bits or teacher.

    A control counts only where all that decides its training is that of the chain: start weights, schedules, steps,
    samples, seed. One with other settings is no control of this chain.

    Args:
        last: The end of a chain.
        store: Holds them, or not.
    """
    sealed = store.list()
    controls = (_float_control(lineage(last, store=store), sealed=sealed), _qat_control(last, sealed=sealed))
    return [control for control in controls if control is not None]


def _float_control(models: Sequence[Artifact], *, sealed: Iterable[Artifact]) -> Artifact | None:
    """The float detector trained on in every step of a chain as its models were; None where one is not sealed."""
    by_key = {artifact.manifest.key: artifact for artifact in sealed if artifact.manifest.kind == FLOAT}
    control: Artifact | None = models[0]
    for before, model in pairwise(models):
        try:
            training = training_of_control(model.manifest, before=before.manifest)
        except ValueError:  # recorded when schedules had other fields, which no control of today has
            return None
        if training is not None and control is not None:
            control = by_key.get(_key_of_control(model, training=training, start=control))
    return None if control is models[0] else control


def _key_of_control(model: Artifact, *, training: FloatSchedule, start: Artifact) -> str:
    """Key of the float training that stands beside a trained model."""
    manifest = model.manifest
    return float_key(
        training,
        settings=manifest.profile,
        start=start.digest,
        split=str(manifest.data["train"]),
        processes=_processes(model),
    )


def _qat_control(last: Artifact, *, sealed: Iterable[Artifact]) -> Artifact | None:
    """What was trained on from the same stage as a distilled model, in the same way but without a teacher."""
    if last.manifest.kind != VGD:
        return None
    longer = (model for model in sealed if model.manifest.kind == QAT_LONGER)
    return next((model for model in longer if _training_on(model) == _training_on(last)), None)


def _training_on(model: Artifact) -> dict[str, Any]:
    """All that decides how a model was trained on from the last stage, but for its teacher."""
    manifest = model.manifest
    stated: Any = manifest.profile
    return {
        "start": manifest.parents["start"],
        "train": manifest.data["train"],
        "seed": manifest.seed,
        "processes": _processes(model),
        "model": {**stated["model"], "weights": None},
        "queue": [stated["data"][name] for name in ("queue_length", "drop_one_frame")],
        "schedule": stated["distillation"]["schedule"],
        **{name: stated[name] for name in ("quantization", "calibration")},
    }


def _processes(model: Artifact) -> int:
    """How many processes made an artifact together."""
    return int(str(model.manifest.record.circumstances.get("processes", 1)))


def sealed_chain(compression: Artifact, *, store: Store) -> list[Link]:
    """The chain that a compression artifact stands for, with the very evaluations it was sealed with.

    Controls are listed before its end, where the store has some that were evaluated on the same samples.

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
    alike = [_settings_of_score(evaluation) for evaluation in evaluations]
    scored = [
        evaluation
        for evaluation in store.list()
        if evaluation.manifest.kind == EVALUATION
        and evaluation.manifest.parents["model"] in controls
        and _settings_of_score(evaluation) in alike
    ]
    compared = {evaluation.manifest.parents["model"] for evaluation in scored}
    branches = [model for digest, model in controls.items() if digest in compared]
    return chain_of(last, store=store, controls=branches, evaluations=[*scored, *evaluations])


def _settings_of_score(evaluation: Artifact) -> list[object]:
    """What two evaluations share whose scores may be compared."""
    return [evaluation.manifest.data.get(name) for name in _SETTINGS_OF_SCORE]


def link_name(model: Artifact, *, control: bool = False) -> str:
    """What tables call a model artifact."""
    data, kind = model.manifest.data, model.manifest.kind
    if kind == FLOAT:
        return "float longer" if control else "float"
    if kind == QAT:
        parts = data["parts"]
        assert isinstance(parts, list)
        word = "QAT" if model.manifest.metrics.get("steps") != 0 else "PTQ"  # put on the grid, trained by no step
        return f"{word} {data['stage']}/{data['stages']}" + (f" (+{parts[-1]})" if len(parts) < 4 else "")
    if kind == VGD:
        return f"QAT+{'+'.join(_words_of_objectives(model))}"
    return {CALIBRATION: "PTQ", QAT_LONGER: "QAT longer"}.get(kind, kind)


def _words_of_objectives(model: Artifact) -> list[str]:
    """What a distilled model was distilled by; the view-guided loss alone is not stated."""
    section = model.manifest.profile.get("distillation")
    stated = section.get("objectives") if isinstance(section, dict) else None
    return [OBJECTIVE_WORDS.get(str(name), str(name)) for name in (stated if isinstance(stated, list) else ["vgd"])]


def _bits(model: Artifact) -> str:
    kind, data = model.manifest.kind, model.manifest.data
    if kind == FLOAT:
        return "W32A32"
    partly = "partly " if kind == QAT and data["stage"] != data["stages"] else ""
    return partly + bits_label(model)
