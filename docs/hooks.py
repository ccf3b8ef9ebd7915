"""Tables that the docs take from the program itself, so that they never go stale.

A page asks for one with a comment on a line of its own:

    <!-- options: fit -->        the arguments and options of a command
    <!-- settings: ae -->        the settings of a detector, from its Config, and where its presets differ
    <!-- published: ae -->       what was published of a detector, from the recipes table
    <!-- detectors -->           all detectors
    <!-- every-detector -->      a section on each of them: docstring, settings, published figures
    <!-- output: detectors -->   what `auscult detectors` prints
    <!-- experiments -->         the experiments that come with auscult
    <!-- exports -->             which detectors cannot be exported, and why
    <!-- promises -->            what a number of healthy clips can promise
    <!-- front-ends -->          all front ends
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

_REQUEST = re.compile(r"^<!-- (?P<table>[\w-]+)(?:: (?P<name>[\w-]+))? -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace each request by its table (mkdocs calls this for every page)."""
    return _REQUEST.sub(_answer, markdown)


def options(command: str) -> str:
    """The arguments and options of a command, as `auscult COMMAND --help` has them."""
    rows = [(_spelling(p), _default(p), _plain(p.help or "")) for p in _command(command).params]
    return _table(("argument or option", "default", "meaning"), [*rows, ("`-h`, `--help`", "", "Show the options.")])


def settings(detector: str) -> str:
    """The settings of a detector: name, default, meaning; then what its presets change."""
    from auscult.detectors.registry import get

    kind = get(detector)
    defaults = kind.Config()
    rows = [
        (f"`{name}`", f"`{_json(getattr(defaults, name))}`", field.description or "")
        for name, field in kind.Config.model_fields.items()
    ]
    table = _table(("setting", "default", "meaning"), rows)
    for preset, changes in kind.presets.items():
        if changes:
            said = ", ".join(f"`{key}={_json(value)}`" for key, value in changes.items())
            table += f"\nThe preset `{preset}` changes {said}.\n"
    return table


def published(detector: str) -> str:
    """What papers published of a detector's system: AUC and pAUC in percent, a column for each recipe."""
    from auscult.detectors.recipes import RECIPES

    rows = [recipe for recipe in RECIPES if recipe.detector == detector]
    columns: dict[str, dict[str, tuple[float, float]]] = {}
    for recipe in rows:
        # A system whose settings differ by machine type is named "system, type" there: one column all the same.
        system = recipe.system.removesuffix(f", {next(iter(recipe.published), '')}")
        if recipe.published:
            columns.setdefault(f"{system}: {recipe.source}", {}).update(recipe.published)
    text = ""
    if columns:
        types = list(dict.fromkeys(t for figures in columns.values() for t in figures))
        body = [(t, *(_figures(figures.get(t)) for figures in columns.values())) for t in types]
        text = _table(("machine type", *columns), body)
    for recipe in rows:
        changes = ", ".join(f"`{key}={_json(value)}`" for key, value in recipe.settings.items())
        facts = [f"one model for each {recipe.scope}" if recipe.scope != "all" else "one model for all"]
        facts += [f"settings {changes}"] if changes else []
        facts += [f"training clips of {', '.join(recipe.others)} as outliers"] if recipe.others else []
        facts += [recipe.note] if recipe.note else []
        text += f"\n- **{recipe.system}** ({recipe.source}): {'; '.join(facts)}."
    return text + "\n"


def detectors() -> str:
    """All detectors: name, family, parameters, what they need, paper."""
    from auscult.detectors.registry import detectors as every

    rows = [
        (
            f"[`{name}`](detectors.md#{name})",
            kind.family,
            f"{kind().n_parameters():,}".replace(",", " ") if kind().n_parameters() else "–",
            ", ".join(sorted(kind.needs)),
            kind.paper,
        )
        for name, kind in every().items()
    ]
    return _table(("detector", "family", "parameters", "needs", "paper"), rows)


def front_ends() -> str:
    """All front ends, a column each."""
    from auscult.features import FRONT_ENDS, FrontEnd

    names = list(FRONT_ENDS)
    rows = []
    for field in FrontEnd.model_fields:
        rows.append((f"`{field}`", *(f"`{_json(getattr(FRONT_ENDS[name], field))}`" for name in names)))
    return _table(("", *(f"`{name}`" for name in names)), rows)


def every_detector() -> str:
    """A section on each detector; mkdocstrings turns the `:::` lines into what the docstrings say."""
    from auscult.detectors.registry import detectors as every

    return "\n".join(
        f"## {name} {{#{name}}}\n\n"
        f"::: {kind.__module__}.{kind.__qualname__}\n"
        "    options: { show_root_heading: false, show_root_toc_entry: false, members: false, show_bases: false,"
        " show_signature: false }\n\n"
        f"### Settings of {name}\n\n{settings(name)}\n"
        f"### Published of {name}\n\n{published(name)}\n"
        for name, kind in every().items()
    )


@cache
def output(argument: str) -> str:
    """What auscult prints when called with one argument, as a block."""
    words = [sys.executable, "-m", "auscult", argument]
    done = subprocess.run(words, capture_output=True, text=True, check=True, encoding="utf-8")
    lines = [line.rstrip() for line in done.stdout.strip("\n").splitlines()]
    return "```text\n" + "\n".join(lines).strip("\n") + "\n```\n"


def experiments() -> str:
    """The experiments that come with auscult: name, what they make, how many rows, on what."""
    from auscult.benchmark.experiment import experiment_names, read_experiment

    rows = []
    for name in experiment_names():
        experiment = read_experiment(name)
        data = experiment.data
        on = "a synthetic plant" if data.plant else "DCASE 2020" if data.layout else ", ".join(data.sets or ())
        count = f"{len(experiment.rows)}{' and more' if experiment.every_detector else ''}"
        rows.append((f"`{name}`", experiment.title, count, on))
    return _table(("name", "what it makes", "rows", "on"), rows)


def exports() -> str:
    """The detectors that cannot be exported, and why."""
    from auscult.detectors.registry import detectors as every

    return "".join(f"- `{name}`: {kind.why_no_export}.\n" for name, kind in every().items() if not kind.exports)


def promises() -> str:
    """What a number of healthy clips can promise, and how far one model may be from it."""
    from scipy.stats import beta

    from auscult.calibration import n_held_out

    rows = []
    for n_clips in (15, 30, 40, 133, 300, 660, 1000, 3000):
        n = n_held_out(n_clips)
        if not n:
            rows.append((str(n_clips), "0", "none can be promised", "", ""))
            continue
        spans = []
        for rate in (0.05, 0.01):
            k = math.floor(rate * (n + 1) + 1e-9)
            low, high = beta.ppf([0.05, 0.95], k, n + 1 - k) if k else (0, 0)
            spans.append(f"{100 * low:.1f} to {100 * high:.1f} %" if k else "extrapolated")
        rows.append((str(n_clips), str(n), f"{100 / (n + 1):.1f} %", *spans))
    header = ("healthy clips", "held out", "lowest rate promised", "asked for 5 %: nine in ten have", "asked for 1 %")
    return _table(header, rows)


_TABLES: dict[str, Callable[..., str]] = {
    "options": options,
    "settings": settings,
    "published": published,
    "detectors": detectors,
    "exports": exports,
    "front-ends": front_ends,
    "every-detector": every_detector,
    "output": output,
    "promises": promises,
    "experiments": experiments,
}


def _answer(request: re.Match[str]) -> str:
    make = _TABLES.get(request["table"])
    if make is None:
        return request[0]
    return make(request["name"]) if request["name"] else make()


def _command(name: str) -> Any:
    import typer

    from auscult.cli import app

    group: Any = typer.main.get_command(app)
    return group if name == "auscult" else group.commands[name]


def _spelling(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    value = "" if parameter.is_flag else f" {parameter.metavar or parameter.name.upper()}"
    short_first = sorted(parameter.opts, key=len)
    return ", ".join(f"`{name}{value if name == short_first[-1] else ''}`" for name in short_first)


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    silent = parameter.default is None or parameter.default is False
    return "" if silent else f"`{parameter.default}`"


def _plain(text: str) -> str:
    """Text without rich's markup."""
    return re.sub(r"\[/?(?:bold|/)?\]", "", text)


def _figures(pair: tuple[float, float] | None) -> str:
    return "–" if pair is None else " / ".join("–" if math.isnan(figure) else f"{figure}" for figure in pair)


def _json(value: Any) -> str:
    return "–" if value is None else (f"{value:.6g}" if isinstance(value, float) else str(value))


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(header)
    lines = [titles, ["---"] * len(titles), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
