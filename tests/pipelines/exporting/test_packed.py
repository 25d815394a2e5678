"""``export packed``: what comes back is what went in, bit for bit, and what was damaged is refused by one sentence."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

import profiles
from pipelines.assembly.example import Example
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import load_quantized
from pipelines.commands.artifacts import show
from pipelines.exporting.packed import differing, load_packed
from pipelines.store.artifacts import DamagedArtifact, Store
from qdbev.export.packed import CARD, CONFIG, WEIGHTS, execute_integers
from qdbev.export.packed.config import sealed
from qdbev.quantization import quantized_layers
from qdbev.quantization.layers.attention import QuantMultiheadAttention
from qdbev.quantization.layers.quantized import QuantConv2d, QuantLinear

Call = Callable[..., dict[str, Any]]
READER = Path(__file__).resolve().parents[3] / "docs" / "examples" / "read_packed.py"


@pytest.fixture(scope="module")
def settings(tiny_synthetic: Path) -> list[str]:
    return [
        f"data.source={tiny_synthetic}",
        "data.train_scenes=3",
        "data.val_scenes=1",
        "calibration.samples=2",
        "quantization.activation_sign=auto",
        "evaluation.max_boxes=30",
    ]


@pytest.fixture(scope="module")
def folder(call: Call, model: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "nano"
    made = call("export packed", "--out", str(out))
    assert made["artifact"]["kind"] == "packed"
    assert made["messages"][0] == f"read back: 569 tensors, equal to those of {Path(model['path']).name} bit for bit"
    return out


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture(scope="module")
def expected(model: dict[str, Any], settings: list[str]) -> dict[str, torch.Tensor]:
    """The state of the detector that ``evaluate`` scores."""
    artifact = Store(Path(model["path"]).parent).open(model["path"])
    state: dict[str, torch.Tensor] = load_quantized(
        artifact, profile=profiles.load("w4a6", overrides=settings)
    ).detector.state_dict()
    return state


def test_every_tensor_comes_back_bit_for_bit(
    folder: Path, expected: dict[str, torch.Tensor], settings: list[str]
) -> None:
    profile = profiles.load("w4a6", overrides=settings)
    alone, asked = load_packed(folder), load_packed(folder, profile=profile)
    assert differing(alone.detector.state_dict(), expected) == []
    assert differing(asked.detector.state_dict(), expected) == []
    assert alone.complete


def test_differing_sees_a_bit_a_type_and_a_name() -> None:
    one = {"a": torch.zeros(2), "b": torch.zeros(2), "c": torch.zeros(1)}
    other = {"a": torch.tensor([0.0, 1e-45]), "b": torch.zeros(2, dtype=torch.float16), "d": torch.zeros(1)}
    assert differing(one, other) == ["a", "b", "c", "d"]
    assert differing(one, dict(one)) == []


def test_the_export_scores_as_the_artifact(call: Call, folder: Path, model: dict[str, Any]) -> None:
    packed, whole = call("evaluate", str(folder)), call("evaluate", model["path"])
    names = ("NDS", "mAP", "mATE")
    assert [packed["metrics"][name] for name in names] == [whole["metrics"][name] for name in names]


def test_numpy_alone_reads_the_same(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    lines = READER.read_text(encoding="utf-8")
    imported = [node for node in ast.walk(ast.parse(lines)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name if isinstance(node, ast.Import) else node.module for node in imported for alias in node.names}
    assert len(lines.splitlines()) <= 100
    assert {str(name) for name in names} - sys.stdlib_module_names == {"numpy"}
    reader = _reader()
    read, grids = reader.weights(folder), reader.grids(folder)
    states = {name for name in expected if name.endswith(("_quantizer.scale", "_quantizer.flags"))}
    assert read.keys() == expected.keys() - states
    assert [name for name in read if not np.array_equal(read[name], expected[name].numpy())] == []
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    for name in (
        "img_backbone.layer1.0.conv1.input",
        "pts_bbox_head.transformer.encoder.layers.0.ffns.0.layers.1.input",
    ):
        quantizer = load_packed(folder).detector.get_submodule(f"{name}_quantizer")
        assert np.array_equal(reader.quantized(x, grids[name]), quantizer(torch.from_numpy(x)).detach().numpy())


def test_the_reader_refuses_what_it_does_not_know(copy: Path) -> None:
    content = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(content[:-1])
    with pytest.raises(ValueError, match="was cut or changed"):
        _reader().weights(copy)
    rewrite(copy, format_version=3)
    with pytest.raises(ValueError, match=r"format version 3, this program reads \(1, 2\)"):
        _reader().weights(copy)


def _reader() -> Any:
    spec = importlib.util.spec_from_file_location("read_packed", READER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_card_states_the_sealed_scores(call: Call, folder: Path, model: dict[str, Any], tmp_path: Path) -> None:
    front = _front_matter(folder)
    assert (front["library_name"], front["base_model"], front["base_model_relation"]) == ("qdbev", "nano", "quantized")
    assert front["license"] == "apache-2.0"  # the shipped weights are ours
    scores = call("evaluate", model["path"])["metrics"]
    out = tmp_path / "scored"
    call("export packed", model["path"], "--out", str(out), "--base-model", "somebody/nano")
    front = _front_matter(out)
    [entry] = front["model-index"]
    [result] = entry["results"]
    assert front["base_model"] == "somebody/nano"
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
        name: scores[name] for name in ("NDS", "mAP", "mATE", "mASE", "mAOE", "mAVE", "mAAE")
    }
    assert result["dataset"]["split"] == "val"
    assert f"| PTQ W4A6 | {scores['NDS']:.4f} | {scores['mAP']:.4f} |" in (out / CARD).read_text(encoding="utf-8")
    again = call("export packed", model["path"], "--base-model", "somebody/nano")
    assert again["messages"] == ["packed before; --force does it again"]


def _front_matter(folder: Path) -> dict[str, Any]:
    _, front, _ = (folder / CARD).read_text(encoding="utf-8").split("---\n", 2)
    document: dict[str, Any] = yaml.safe_load(front)
    return document


def test_bytes_of_each_part_add_up_to_the_file(folder: Path, model: dict[str, Any], store: Path) -> None:
    for name in (str(folder), model["path"]):
        shown = show(Store(store), ref=name)
        [table] = [table for table in shown.tables if table.name == "bytes"]
        *parts, header, whole = table.rows
        assert [row["part"] for row in parts] == ["backbone", "neck", "encoder", "decoder"]
        size = shown.artifact.manifest.files[WEIGHTS].bytes  # type: ignore[union-attr]
        assert whole["bytes"] == size == header["bytes"] + sum(row["bytes"] for row in parts)
        assert whole["integers"] == sum(row["integers"] for row in parts)
        assert 0.2 < shown.metrics["pointwise_share_of_macs"] < 0.5


def test_a_folder_is_compared_with_an_artifact(call: Call, copy: Path, model: dict[str, Any]) -> None:
    said = call("export packed", model["path"], "--check", str(copy))["messages"]
    assert said == [f"{copy}: 569 tensors, equal to those of {Path(model['path']).name} bit for bit"]
    tensors = load_file(copy / WEIGHTS)
    tensors["img_neck.fpn_convs.0.conv.weight_scale"][3] *= 2
    save_file(tensors, copy / WEIGHTS)
    content = (copy / WEIGHTS).read_bytes()
    rewrite(copy, files={WEIGHTS: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}})
    refused = call("export packed", model["path"], "--check", str(copy), code=3)["error"]
    assert refused.endswith("2 tensors that are not those of the model, first img_neck.fpn_convs.0.conv.weight")
    refused = call("export packed", model["path"], "--check", str(copy), "--out", str(copy / "more"), code=2)["error"]
    assert refused == "--check writes nothing; give it or --out"
    (copy / WEIGHTS).unlink()
    assert "No such file" in call("export packed", model["path"], "--check", str(copy), code=3)["error"]


def test_nothing_is_overwritten_unless_forced(call: Call, folder: Path, tmp_path: Path) -> None:
    refused = call("export packed", "--out", str(folder), code=2)
    assert refused["error"].endswith("where an artifact lies; --force replaces it")
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    refused = call("export packed", "--out", str(tmp_path), "--force", code=2)
    assert refused["error"].endswith("where something else lies; name a folder that does not exist yet")
    before = (folder / WEIGHTS).read_bytes()
    call("export packed", "--out", str(folder), "--force")
    assert (folder / WEIGHTS).read_bytes() == before


def test_only_a_quantized_detector_is_packed(call: Call, folder: Path, tmp_path: Path) -> None:
    assert "is a packed artifact; only a quantized detector" in call("export packed", str(folder), code=2)["error"]
    assert "there is no quantized w4a6-nano in" in call("export packed", at=tmp_path, code=3)["error"]


def test_a_flipped_byte_is_refused(call: Call, copy: Path) -> None:
    content = bytearray((copy / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (copy / WEIGHTS).write_bytes(content)
    assert f"{WEIGHTS} was changed" in call("evaluate", str(copy), code=3)["error"]
    with pytest.raises(DamagedArtifact, match=f"{WEIGHTS} was changed after it was written"):
        load_packed(copy)


def test_a_cut_file_is_refused(call: Call, copy: Path) -> None:
    content = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(content[:-100])
    assert f"has {len(content) - 100} bytes, {len(content)} were sealed" in call("evaluate", str(copy), code=3)["error"]
    with pytest.raises(DamagedArtifact, match=f"has {len(content) - 100} bytes, {len(content)} were written"):
        load_packed(copy)


def test_an_unknown_version_is_refused(copy: Path) -> None:
    rewrite(copy, format_version=3)
    with pytest.raises(DamagedArtifact, match="is of format version 3; this qdbev reads versions 1 and 2"):
        load_packed(copy)


def test_the_config_speaks_the_words_of_compressed_tensors(folder: Path) -> None:
    quantization = json.loads((folder / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    assert (quantization["quant_method"], quantization["format"]) == ("qdbev", "pack-quantized")
    groups = quantization["config_groups"].values()
    assert {(group["weights"]["num_bits"], group["weights"]["strategy"]) for group in groups} == {(4, "channel")}
    inputs = [group["input_activations"] for group in groups if group["input_activations"]]  # tables have none
    assert {(scheme["num_bits"], scheme["strategy"]) for scheme in inputs} == {(6, "tensor")}
    assert all(group["targets"] for group in groups)


def test_a_changed_config_is_refused(copy: Path) -> None:
    text = (copy / CONFIG).read_text(encoding="ascii")
    (copy / CONFIG).write_text(text.replace("bevformer", "bevformes"), encoding="ascii")
    with pytest.raises(DamagedArtifact, match="its content does not match its digest"):
        load_packed(copy)
    (copy / CONFIG).write_text("{}", encoding="ascii")
    with pytest.raises(DamagedArtifact, match="describes no packed model"):
        load_packed(copy)
    (copy / CONFIG).unlink()
    with pytest.raises(DamagedArtifact, match=f"{CONFIG}: No such file"):
        load_packed(copy)


def test_another_model_is_refused(copy: Path, settings: list[str]) -> None:
    other = profiles.load("w4a6", overrides=[*settings, "model.bev.rows=20"])
    with pytest.raises(DamagedArtifact, match="it holds nano with other numbers than nano has here"):
        load_packed(copy, profile=other)
    own = json.loads((copy / CONFIG).read_text(encoding="ascii"))["qdbev"]
    rewrite(copy, weights={name: [8, -128, 127] for name in own["weights"]})
    with pytest.raises(DamagedArtifact, match=r"packed weight .*: rows of .* integers of 8 bits are"):
        load_packed(copy)
    rewrite(copy, weights=dict(list(own["weights"].items())[1:]))
    with pytest.raises(DamagedArtifact, match="does not fit this model: tensors"):
        load_packed(copy)


class WideLinear(QuantLinear):
    """Eager fake quantization, the products of a layer summed in double precision."""

    def forward(self, input: Tensor) -> Tensor:
        return wide_linear(input, self, weight="weight", of_x=self.input_quantizer)


class WideConv2d(QuantConv2d):
    def forward(self, input: Tensor) -> Tensor:
        weight, bias = wide(self.weight_quantizer, self.weight), None if self.bias is None else self.bias.double()
        return self._conv_forward(wide(self.input_quantizer, input), weight, bias).to(input.dtype)


class WideAttention(QuantMultiheadAttention):
    def _project(self, *inputs: Tensor) -> Any:
        quantizers = (self.query_quantizer, self.key_quantizer, self.value_quantizer)
        whole = [wide_linear(x, self, weight="in_proj_weight", of_x=of_x) for x, of_x in zip(inputs, quantizers)]  # noqa: B905
        heads = [x.chunk(3, -1)[place].unflatten(-1, (self.num_heads, -1)) for place, x in enumerate(whole)]
        return tuple(x.transpose(1, 2) for x in heads)

    def _project_out(self, x_NLE: Tensor) -> Tensor:
        projection: Any = self.out_proj
        return wide_linear(x_NLE, projection, weight="weight", of_x=projection.input_quantizer)


def wide_linear(x: Tensor, layer: Any, *, weight: str, of_x: Any) -> Tensor:
    value, bias = getattr(layer, weight), getattr(layer, weight.removesuffix("weight") + "bias")
    on_grid = wide(getattr(layer, f"{weight}_quantizer"), value)
    return F.linear(wide(of_x, x), on_grid, None if bias is None else bias.double()).to(x.dtype)


def wide(quantizer: Any, x: Tensor) -> Tensor:
    """``S q`` without rounding."""
    scale = quantizer.scale.double()
    return quantizer.integers(x).double() * (scale.view(-1, *[1] * (x.ndim - 1)) if scale.ndim else scale)


WIDE = {QuantLinear: WideLinear, QuantConv2d: WideConv2d, QuantMultiheadAttention: WideAttention}


def test_integers_give_the_boxes_of_the_fake_quantized_detector(folder: Path, settings: list[str]) -> None:
    """Over two frames with history; in double precision, so that no value falls on the other side of a tie.

    Eager float32 sums with errors of its own: what lies within them of a tie may be rounded to another step, and the
    next frames differ. So with eager as it is each layer is compared, on the same input.
    """
    profile = profiles.load("w4a6", overrides=settings)
    split = Job(profile, Store("nowhere")).split("val")
    eager, exact, integers = (load_packed(folder).detector for _ in range(3))
    changed = execute_integers(integers)
    assert len(changed) == 80 and changed == [path for path, layer in quantized_layers(eager).items() if _both(layer)]
    for layer in quantized_layers(exact).values():
        if _both(layer):
            layer.__class__ = WIDE[type(layer)]  # type: ignore[index]
    expected = Example(exact, profile=profile, split=split)()
    got = Example(integers, profile=profile, split=split)()
    for [wanted], [sample] in zip(expected, got, strict=True):
        boxes, same = wanted.pred_instances_3d, sample.pred_instances_3d
        assert torch.allclose(boxes.scores_3d, same.scores_3d, rtol=0, atol=1e-5)
        assert torch.allclose(boxes.bboxes_3d.tensor, same.bboxes_3d.tensor, rtol=0, atol=1e-5)
        assert torch.equal(boxes.labels_3d, same.labels_3d)
    assert (
        layer_errors(eager, quantized_layers(integers), lambda: Example(eager, profile=profile, split=split)()) < 1e-5
    )


def _both(layer: Any) -> bool:
    return len(list(layer.quantizers())) > 1


def layer_errors(model: Any, others: Mapping[str, Any], run: Callable[[], object]) -> float:
    """The largest difference of a layer to its fellow on the same input, as a share of the largest output."""
    errors: list[float] = []

    def compare(path: str, args: Any, kwargs: Any, output: Any) -> None:
        fellow = others[path](*args, **kwargs)
        left, right = (output[0], fellow[0]) if isinstance(output, tuple) else (output, fellow)
        errors.append(float((left - right).abs().max() / right.abs().max()))

    for path, layer in quantized_layers(model).items():
        if _both(layer):
            layer.register_forward_hook(
                lambda module, args, kwargs, output, path=path: compare(path, args, kwargs, output), with_kwargs=True
            )
    run()
    assert len(errors) >= 80
    return max(errors)


def rewrite(folder: Path, **own: Any) -> None:
    """Change what a config.json says and seal it again, as a liar would."""
    config = json.loads((folder / CONFIG).read_text(encoding="ascii"))
    changed = sealed(config | {"qdbev": config["qdbev"] | own})
    (folder / CONFIG).write_text(json.dumps(changed), encoding="ascii")
