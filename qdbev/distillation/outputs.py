"""Distillation of what a DETR-like decoder puts out: class scores and box codes of its object queries.

    q_k = sigmoid(z_k / tau)          w_k = max_c sigmoid(z^T_kc), or 1
    L_class = tau^2 sum_k w_k sum_c KL(Bernoulli(q^T_kc), Bernoulli(q^S_kc)) / sum_k w_k
    L_box   =       sum_k w_k sum_d v_d |b^T_kd - b^S_kd|                    / sum_k w_k

The teacher's scores are soft labels with a temperature (Hinton et al., 2015), here of independent sigmoids, as
detectors score classes. KL is their binary cross-entropy less the teacher's own entropy: the same gradient, and zero
where both agree. Queries count by the teacher's confidence w, as BEVDistill weighs its instances (Chen et al., ICLR
2023). It first matches the queries of two detectors; here the student has the teacher's query embeddings in the
teacher's order, so query k is compared with query k.

Shapes: L decoder layers, B samples, K object queries, C classes, D entries of a box code.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

Layers = Literal["last", "all"]
Weighting = Literal["score", "uniform"]


def class_output_loss(
    student_LBKC: Tensor,
    *,
    teacher_LBKC: Tensor,
    temperature: float = 1.0,
    layers: Layers = "last",
    weighting: Weighting = "score",
) -> Tensor:
    """Compute the loss on class logits; the mean over samples and layers.

    >>> student, teacher = torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 3.0).log()
    >>> round(float(class_output_loss(student, teacher_LBKC=teacher)), 4)  # 3/4 ln 3/2 + 1/4 ln 1/2
    0.1308

    Args:
        student_LBKC: Class logits of the student.
        teacher_LBKC: The same of the teacher; no gradient flows to it.
        temperature: Tau.
        layers: The last decoder layer, which boxes are taken from, or the mean over all.
        weighting: Queries count by the teacher's largest class score, or alike.

    Raises:
        ValueError: Shapes that differ or do not have four dimensions, or a setting out of range.
    """
    _check_pair(student_LBKC, teacher=teacher_LBKC)
    if not temperature > 0.0:
        raise ValueError(f"temperature {temperature}: expected a positive number")
    student, teacher = (_chosen(logits, layers=layers) for logits in (student_LBKC, teacher_LBKC.detach()))
    wanted = teacher / temperature
    learned = student / temperature
    share = wanted.sigmoid()
    terms = share * (functional.logsigmoid(wanted) - functional.logsigmoid(learned))
    terms = terms + (1 - share) * (functional.logsigmoid(-wanted) - functional.logsigmoid(-learned))
    return _weighed_mean(terms.sum(-1), teacher_LBKC=teacher, weighting=weighting) * temperature**2


def box_output_loss(
    student_LBKD: Tensor,
    *,
    teacher_LBKD: Tensor,
    teacher_LBKC: Tensor,
    code_weights_D: Tensor,
    layers: Layers = "last",
    weighting: Weighting = "score",
) -> Tensor:
    """Compute the loss on box codes; the mean over samples and layers.

    Args:
        student_LBKD: Box codes of the student.
        teacher_LBKD: The same of the teacher; no gradient flows to it.
        teacher_LBKC: Class logits of the teacher.
        code_weights_D: Weight of each entry of a code, such as the detection loss has.
        layers: See ``class_output_loss``.
        weighting: See ``class_output_loss``.

    Raises:
        ValueError: Shapes that do not fit each other, or a setting's value.
    """
    _check_pair(student_LBKD, teacher=teacher_LBKD)
    if teacher_LBKC.shape[:3] != teacher_LBKD.shape[:3] or code_weights_D.shape != teacher_LBKD.shape[3:]:
        raise ValueError(
            f"class logits {tuple(teacher_LBKC.shape)} and {tuple(code_weights_D.shape)} code weights for box codes "
            f"{tuple(teacher_LBKD.shape)}: expected (L, B, K, C), (D,) and (L, B, K, D)"
        )
    student, teacher, logits = (
        _chosen(outputs, layers=layers) for outputs in (student_LBKD, teacher_LBKD.detach(), teacher_LBKC.detach())
    )
    error = ((student - teacher).abs() * code_weights_D.to(student)).sum(-1)
    return _weighed_mean(error, teacher_LBKC=logits, weighting=weighting)


def _weighed_mean(terms_LBK: Tensor, *, teacher_LBKC: Tensor, weighting: Weighting) -> Tensor:
    if weighting not in get_args(Weighting):
        raise ValueError(f"weighting {weighting!r}: expected one of {', '.join(get_args(Weighting))}")
    if weighting == "uniform":
        return terms_LBK.mean()
    weight_LBK = teacher_LBKC.sigmoid().amax(-1)
    tiny = torch.finfo(weight_LBK.dtype).tiny
    return ((terms_LBK * weight_LBK).sum(-1) / weight_LBK.sum(-1).clamp(min=tiny)).mean()


def _chosen(outputs: Tensor, *, layers: Layers) -> Tensor:
    """The layers that count, at least in float32."""
    if layers not in get_args(Layers):
        raise ValueError(f"layers {layers!r}: expected one of {', '.join(get_args(Layers))}")
    chosen = outputs[-1:] if layers == "last" else outputs
    return chosen.to(torch.promote_types(chosen.dtype, torch.float32))


def _check_pair(student: Tensor, *, teacher: Tensor) -> None:
    if student.shape != teacher.shape or student.dim() != 4:
        raise ValueError(
            f"outputs {tuple(student.shape)} of the student, {tuple(teacher.shape)} of the teacher: expected one shape "
            "of layers, samples, queries and entries"
        )
