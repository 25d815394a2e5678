"""Plan, packed weights and float weights of one artifact must say the same; ``artifacts verify`` compares them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import profiles
from pipelines.assembly.quantized_files import check_quantized
from pipelines.commands import artifacts
from pipelines.store.artifacts import Artifact, DamagedArtifact, Store

SITE = {"path": "conv", "weight_bits": 4, "activation_bits": 6}
LATENT: dict[str, Any] = {
    "conv.weight": np.zeros((2, 9), np.float32),
    "conv.weight_quantizer.flags": np.array([1, 0, 4, 0, 0], np.uint8),
    "conv.input_quantizer.flags": np.array([1, 0, 6, 0, 0], np.uint8),
}
PACKED: dict[str, Any] = {
    "conv.weight_packed": np.zeros(9, np.uint8),
    "conv.weight_scale": np.ones(2, np.float32),
    "conv.weight_shape": np.array([2, 9], np.int32),
    "conv.weight_quantizer.flags": LATENT["conv.weight_quantizer.flags"],
    "conv.input_quantizer.flags": LATENT["conv.input_quantizer.flags"],
}


def seal(store: Store, *, structure: Any, latent: dict[str, Any], packed: dict[str, Any]) -> Artifact:
    def write(folder: Path) -> None:
        (folder / "structure.json").write_text(json.dumps(structure))
        save_file(latent, folder / "latent.safetensors")
        save_file(packed, folder / "model.safetensors")

    return store.seal("qat", profile=profiles.load("w4a6"), key="a" * 64, write=write)


def structure(site: dict[str, Any]) -> dict[str, Any]:
    return {"packed": True, "plan": {"sites": [site]}}


def test_files_that_agree_pass(tmp_path: Path) -> None:
    check_quantized(seal(Store(tmp_path), structure=structure(SITE), latent=LATENT, packed=PACKED))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"structure": structure(SITE | {"weight_bits": 8})}, "latent.*weight_quantizer.flags states 4 bits, .* 8"),
        ({"structure": structure(SITE | {"activation_bits": 4})}, "input_quantizer.flags states 6 bits, .* 4"),
        ({"packed": PACKED | {"conv.weight_shape": np.array([9, 2], np.int32), "conv.weight_scale": np.ones(9, "f4")}},
         r"weight_shape is \[9, 2\], in latent.safetensors it is \[2, 9\]"),
        ({"latent": {"other.weight": LATENT["conv.weight"]}}, "conv.weight_packed has no weight in latent"),
        ({"structure": {}}, "structure.json is not as it must be"),
        ({"structure": []}, "structure.json is not as it must be"),
        ({"structure": {"packed": True, "plan": {"sites": [3]}}}, "structure.json is not as it must be"),
    ],
)  # fmt: skip
def test_a_contradiction_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    files = {"structure": structure(SITE), "latent": LATENT, "packed": PACKED} | changes
    artifact = seal(Store(tmp_path), **files)
    with pytest.raises(DamagedArtifact, match=f"artifact {artifact.path.name} is refused: .*{message}"):
        check_quantized(artifact)
    outcome = artifacts.verify(Store(tmp_path))
    assert not outcome.ok and artifact.path.name in outcome.details["damaged"][0]
