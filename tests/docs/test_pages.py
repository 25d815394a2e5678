"""The pages of docs/: links resolve, options and profile fields exist, every command has a page, Python runs."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
import typer.main

from profiles import Profile
from profiles.choices import kinds
from qdbev_cli.app import app

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
COMMAND_PAGES = {"artifacts": "artifacts-command.md"}
OTHER_TOOLS = {
    "--images",
    "--repeats",
    "--no-deps",
    "--no-build-isolation",
    "--nproc",
}  # of pip and torchrun (--nproc_per_node)
OTHER_TOOLS |= {"--standalone", "--ntasks", "--gpus-per-task"}  # of torchrun and srun
OTHER_TOOLS |= {
    "--data",
    "--weights",
    "--models",
    "--gpus",
    "--recipe",
    "--synthetic",
    "--quick",
}  # of reproduce_nuscenes.sh
OTHER_TOOLS |= {"--batch", "--image", "--ours"}  # of scripts/bench_distillation.py and bench_training_step.py
OTHER_TOOLS |= {"--photographs"}  # of scripts/draw_keyframe.py
OTHER_TOOLS |= {"--rm", "--logdir"}  # of docker and tensorboard
OTHER_TOOLS |= {"--count", "--jobs", "--paths", "--suite", "--again", "--list"}  # of scripts/mutation_sample.py


def commands():
    """Every command of the app by name, groups opened."""
    group = typer.main.get_command(app)
    found = {}
    for name, command in group.commands.items():
        children = getattr(command, "commands", None)
        found |= {f"{name} {child}": one for child, one in children.items()} if children else {name: command}
    return found


def has_field(document, path):
    """Whether a dotted path names a field of a profile."""
    name, _, rest = path.partition(".")
    if name not in document.model_fields:
        return False
    return not rest or any(has_field(kind, rest) for kind in kinds(document.model_fields[name]).values())


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_to_pages_and_headings(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", TEXTS[page]):
        if target.endswith((".png", ".jpg", ".svg")):
            assert (DOCS / target).is_file(), f"{page} shows {target}"
            continue
        name = target or page
        assert name in TEXTS, f"{page} links to {name}"
        if anchor:
            heads = [re.sub(r"[^a-z0-9 -]", "", head.lower()) for head in re.findall(r"^#+ (.+)$", TEXTS[name], re.M)]
            assert anchor in [head.replace(" ", "-") for head in heads], f"{page} links to {name}#{anchor}"


def test_every_command_has_a_page_and_the_index_lists_it():
    for name in {command.split()[0] for command in commands()}:
        page = COMMAND_PAGES.get(name, f"{name}.md")
        assert f"({page})" in TEXTS["index.md"], name
        assert TEXTS[page].startswith(f"# qdbev {name}"), page


def test_the_index_lists_every_page():
    listed = set(re.findall(r"\((\S+\.md)\)", TEXTS["index.md"]))
    assert listed == set(TEXTS) - {"index.md"}


def test_options_in_the_pages_exist():
    known = {option for command in commands().values() for one in command.params for option in one.opts}
    known |= OTHER_TOOLS | {"--help", "--version", "--install-completion"}
    for page, text in TEXTS.items():
        written = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
        assert written <= known, f"{page}: {sorted(written - known)}"


def test_options_of_a_command_stand_on_its_page():
    shared = set(re.findall(r"`(--[a-z-]+)", TEXTS["command-line.md"]))
    for name, command in commands().items():
        page = COMMAND_PAGES.get(name.split()[0], f"{name.split()[0]}.md")
        own = {option for one in command.params for option in one.opts if option.startswith("--")} - shared - {"--help"}
        missing = {option for option in own if option not in TEXTS[page]}
        assert not missing, f"{page}: {sorted(missing)}"


def test_profile_fields_in_the_pages_exist():
    sections = [name for name, field in Profile.model_fields.items() if kinds(field)]
    pattern = re.compile(rf"(?<![\w./-])(?:{'|'.join(sections)})\.[a-z0-9_]+(?:\.[a-z0-9_]+)*")
    checked = 0
    for page, text in TEXTS.items():
        for path in pattern.findall(re.sub(r"```python.*?```", "", text, flags=re.DOTALL)):
            if path.endswith((".md", ".safetensors", ".json", ".onnx")):
                continue
            checked += 1
            assert has_field(Profile, path), f"{page}: {path}"
    assert checked > 20


@pytest.mark.parametrize(("number", "said"), [(0, "all on"), (2, "vgd_bev"), (3, "−0.108 [−0.120, −0.100]")])
def test_python_of_the_api_page_runs(number, said, tmp_path, monkeypatch, capsys):
    """The second block needs a store and minutes; the others run as they stand, nothing defined before them."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", TEXTS["python-api.md"], flags=re.DOTALL)[number]
    exec(compile(code, f"python-api.md, block {number}", "exec"), {"__name__": "__main__"})
    assert said in capsys.readouterr().out
