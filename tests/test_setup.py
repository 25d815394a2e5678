"""Set-up: mmcv's sources in units, and what happens where they are others or do not compile."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import setup_mmcv
import setup_units
from setup_environment import Environment, SetupError, pin

CPU = [f"{name}.cpp" for names in setup_units.CPU_UNITS for name in names]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose sources have the names of mmcv's."""
    folder = tmp_path / "build" / pin("mmcv").replace("==", "-")
    csrc = folder / setup_units.CSRC
    (csrc / "cpu").mkdir(parents=True)
    for name in (*(f"cpu/{name}" for name in CPU), "nms.cpp", "info.cpp"):
        (csrc / name).write_text(f"// {name}\n")
    (csrc / "pybind.cpp").write_text('  m.def("nms", &nms);\n  m.def(\n "x");\n  m.def("roi_pool_forward", &f,\n')
    (tmp_path / "build" / "unpacked").touch()
    monkeypatch.setattr(setup_units, "KNOWN", setup_units.fingerprint(folder))
    return folder


def test_every_source_stands_in_one_unit(source: Path, tmp_path: Path) -> None:
    copy = setup_units.in_units(source, folder=tmp_path / "units")
    assert copy is not None
    compiled = sorted([*(copy / setup_units.CSRC).glob("*.cpp"), *(copy / setup_units.CSRC / "cpu").glob("*.cpp")])
    assert [file.name for file in compiled] == [*(f"unit_{n}.cpp" for n in range(5)), "pybind.cpp", "unit.cpp"]
    included = [line for file in compiled for line in file.read_text().splitlines() if line.startswith("#include")]
    assert sorted(included) == sorted(
        ["#include <torch/extension.h>"] * 6 + [f'#include "{name[:-4]}.cxx"' for name in [*CPU, "nms.cpp", "info.cpp"]]
    )
    assert (copy / setup_units.CSRC / "cpu" / "psamask.cxx").read_text() == "// cpu/psamask.cpp\n"
    assert (source / setup_units.CSRC / "nms.cpp").exists()  # the package stays as it came


def test_other_sources_are_compiled_as_they_come(source: Path, tmp_path: Path) -> None:
    (source / setup_units.CSRC / "nms.cpp").write_text("// changed\n")
    assert setup_units.in_units(source, folder=tmp_path / "units") is None
    assert not (tmp_path / "units").exists()


def test_operators_are_those_that_python_sees(source: Path) -> None:
    assert setup_units.operator_names(source) == {"nms", "roi_pool_forward"}


class Recorded(Environment):
    """An environment that builds nothing; pip fails where the sources end in a given name."""

    def __init__(self, folder: Path, *, failing: str, answers: dict[str, str]) -> None:
        super().__init__(folder)
        self.failing, self.answers, self.built = failing, answers, list[str]()

    def pip(self, *words: str | Path, doing: str, extra: dict[str, str] | None = None) -> None:
        self.built.append(Path(words[-1]).name)
        if str(words[-1]).endswith(self.failing):
            raise SetupError(f"{doing} failed")
        (self.folder / "mmcv-build" / "mmcv-2.1.0-made.whl").touch()

    def answer(self, code: str) -> Any:
        return next((answer for part, answer in self.answers.items() if part in code), "")


def test_units_that_do_not_compile_are_followed_by_the_plain_build(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.parent.rename(tmp_path / "mmcv-build")
    env = Recorded(tmp_path, failing="units", answers={})
    assert setup_mmcv._compile(env, jobs=1).name == "mmcv-2.1.0-made.whl"
    assert env.built == ["units", pin("mmcv").replace("==", "-")]
    assert "its units did not compile" in capsys.readouterr().out


def test_a_build_that_lacks_an_operator_is_refused(source: Path, tmp_path: Path) -> None:
    env = Recorded(tmp_path, failing="?", answers={"dir(ops)": "nms"})
    with pytest.raises(SetupError, match="without these operators: nms"):
        setup_mmcv.refuse_missing_operators(env, source=source)
    setup_mmcv.refuse_missing_operators(Recorded(tmp_path, failing="?", answers={}), source=source)


def test_operators_are_optimised_whatever_flags_somebody_adds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXXFLAGS", "-march=native")
    monkeypatch.delenv("CFLAGS", raising=False)
    settings = setup_mmcv.build_settings(Recorded(tmp_path, failing="?", answers={}), jobs=1)
    assert settings["CXXFLAGS"] == "-O3 -DNDEBUG -g0 -march=native"
    assert settings["CFLAGS"] == "-O3 -DNDEBUG -g0"
