"""The docs say what the program does: every command, option, file and example in them is real."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import typer

from auscult.cli import app
from auscult.detectors.recipes import RECIPES
from auscult.detectors.registry import detectors
from auscult.features import FRONT_ENDS
from conftest import machine_sound, write_wav

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
GROUP: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = GROUP.commands
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def _hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = _hooks()


def _page(command: str) -> Path:
    return DOCS / "commands" / ("index-command.md" if command == "index" else f"{command}.md")


def _blocks(page: Path, *languages: str) -> list[str]:
    """The code blocks of a page in these languages, without what follows a title."""
    fences = re.findall(r"^```(\w+)[^\n]*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [code for language, code in fences if language in languages]


def _options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts if option.startswith("-")}


# Commands -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_page_with_every_option(name: str) -> None:
    page = _page(name).read_text()
    assert page.startswith(f"# auscult {name}\n")
    built = HOOKS.on_page_markdown(page)
    for option in _options(COMMANDS[name]):
        assert f"`{option}" in built
    for section in ("## Options", "## Exit status"):
        assert section in page
    assert f"({_page(name).name})" in (DOCS / "commands" / "index.md").read_text()


def test_the_programs_own_options_are_documented() -> None:
    built = HOOKS.on_page_markdown((DOCS / "commands" / "index.md").read_text())
    assert all(f"`{option}" in built for option in _options(GROUP))


def _calls() -> list[tuple[str, str]]:
    """Every call of auscult in a shell block, with the page it stands on."""
    calls = []
    for page in TEXTS:
        for block in _blocks(page, "sh", "console"):
            lines = re.findall(r"^(?:\$ )?(auscult .*)$", block, re.MULTILINE)
            calls += [(page.relative_to(ROOT).as_posix(), line) for line in lines]
    return calls


def test_calls_in_the_docs_are_found() -> None:
    assert len(_calls()) > 20


@pytest.mark.parametrize(("page", "line"), _calls())
def test_calls_in_the_docs_exist(page: str, line: str) -> None:
    _, name, *words = shlex.split(line.partition("|")[0], comments=True)
    if name.startswith("-"):
        assert name in _options(GROUP)
        return
    assert name in COMMANDS, f"{page}: {line}"
    used = {word.split("=")[0] for word in words if word.startswith("-")}
    assert used <= _options(COMMANDS[name]) | {"--help", "-h", "--debug"}, f"{page}: {line}"


def test_make_targets_in_the_docs_exist() -> None:
    targets = set(re.findall(r"^([.\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in TEXTS:
        named = re.findall(r"(?:`|^)make ([.\w-]+)", page.read_text(), re.MULTILINE)
        assert set(named) <= targets, page
    assert {"demo", "test"} <= set(re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE))


# Detectors, front ends, links ---------------------------------------------------------------------------


def test_the_detectors_page_knows_every_detector() -> None:
    built = HOOKS.on_page_markdown((DOCS / "detectors.md").read_text())
    for kind in detectors().values():
        assert f"::: {kind.__module__}.{kind.__qualname__}" in built
        assert all(f"| `{setting}` |" in built for setting in kind.Config.model_fields)
    for recipe in RECIPES:
        assert f"**{recipe.system}** ({recipe.source})" in built
        for pair in recipe.published.values():
            assert " / ".join("–" if np.isnan(figure) else f"{figure}" for figure in pair) in built


def test_detectors_named_in_the_readme_exist() -> None:
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w-]+)`", row)]
    assert {"ae", "idnn", "knn"} <= set(named) <= detectors().keys()


def test_front_ends_page_knows_every_front_end() -> None:
    built = HOOKS.on_page_markdown((DOCS / "front-ends.md").read_text())
    assert all(f"| `{name}` |" in built and f"- `{name}`:" in built for name in FRONT_ENDS)


def test_output_is_what_the_program_prints() -> None:
    built = HOOKS.on_page_markdown((DOCS / "commands" / "detectors.md").read_text())
    assert all(f"│ {name} " in built for name in detectors())


def test_what_the_hooks_do_not_know_is_left_alone() -> None:
    text = "<!-- a comment -->\n<!-- options -->text\n<!-- nonsense: fit -->\n"
    assert HOOKS.on_page_markdown(text) == text


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)\s]*\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_nothing_was_left_to_be_filled_in() -> None:
    for page in TEXTS:
        assert "@@" not in page.read_text(), page


@pytest.mark.slow
def test_the_docs_build_without_warnings(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "commands" / "fit" / "index.html").exists()


# Examples -----------------------------------------------------------------------------------------------


def test_the_python_page_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(45):
        write_wav(tmp_path / "recordings" / "normal" / f"{number:02d}.wav", machine_sound(number, seconds=1))
    write_wav(tmp_path / "monday.wav", machine_sound(101, seconds=1))
    write_wav(tmp_path / "tuesday.wav", machine_sound(102, seconds=1, faulty=True))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    first, *others = _blocks(DOCS / "python.md", "python")
    exec(compile(first, "python.md", "exec"), names)
    assert names["model"].decide(names["week"]) == ["normal", "anomaly"]
    for block in others:
        exec(compile(block, "python.md", "exec"), names)
    assert names["strange"].shape[0] == 128
    assert names["result"].overall.auc is None


def test_the_front_ends_page_runs_as_it_stands() -> None:
    names: dict[str, Any] = {"wave": machine_sound(1, seconds=1).astype(np.float32)}
    for block in _blocks(DOCS / "front-ends.md", "python"):
        exec(compile(block, "front-ends.md", "exec"), names)
    assert names["logmel"].shape == (32, 128)


def test_the_model_file_example_runs(fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(fitted / "knn.auscult", tmp_path / "pump.auscult")
    monkeypatch.chdir(tmp_path)
    for block in _blocks(DOCS / "data.md", "python"):
        exec(compile(block, "data.md", "exec"), {})


DROPPED_IN = """
import sys
import auscult
from auscult.corpus import open_data
from auscult.detectors.recipes import RECIPES

plant, file = sys.argv[1:]
assert RECIPES[-1].detector == "levelmeter"
model = auscult.fit(plant, "levelmeter", machine_id="id_00", settings={"least_spread": "1"})
test = open_data(plant).for_scoring().select(machine_id="id_00")
normal, anomaly = (model.score(test.select(condition=c)) for c in ("normal", "anomaly"))
assert normal.max() < anomaly.min()
assert model.relative_map(test.clips()[0]).shape == (128, 63)
model.save(file)
assert (auscult.load(file).score(test) == model.score(test)).all()
try:
    auscult.detector("levelmeter", settings={"least_spread": "0"})
except auscult.AuscultError as error:
    print(error)
"""


def test_the_tutorials_detector_works_when_dropped_in(tiny_plant: Path, tmp_path: Path) -> None:
    source, row, _ = _blocks(DOCS / "add-a-detector.md", "python")
    package = tmp_path / "src" / "auscult"
    shutil.copytree(ROOT / "src" / "auscult", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "detectors" / "levelmeter.py").write_text(source)
    recipes = package / "detectors" / "recipes.py"
    head, end, tail = recipes.read_text().rpartition("\n)")
    recipes.write_text(f"{head}\n    {row.strip()},{end}{tail}")
    words = [sys.executable, "-c", DROPPED_IN, str(tiny_plant), str(tmp_path / "m.auscult")]
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "least_spread=0 is wrong" in done.stdout
