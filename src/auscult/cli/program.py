"""The program itself: its name, its help, and how a failure is told and which status it ends with."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Annotated, NoReturn

import typer

from auscult import __version__
from auscult.cli.interrupt import heed_interrupts
from auscult.cli.say import DONE_WITH_GAPS, tell
from auscult.errors import AuscultError, TrainingInterrupted

app = typer.Typer(
    name="auscult",
    help="Hears when a machine is failing: learns from healthy recordings, judges new ones, shows where.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="First steps: [bold]auscult demo[/], then [bold]auscult fit FOLDER -o model.auscult[/] and "
    "[bold]auscult score model.auscult FOLDER -o scores.csv[/].",
)

# Of typer itself, or in its older versions of click: the class that all complaints about usage share.
_UsageError: type[typer.BadParameter] = typer.BadParameter.__mro__[1]

_REFUSED = 2
_INTERRUPTED = 130


def main() -> None:
    """Run the program; every expected failure is one line on standard error."""
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    heed_interrupts()
    try:
        status = app(prog_name="auscult", standalone_mode=False) or 0
        sys.stdout.flush()
        if status == _INTERRUPTED:  # typer's word for Ctrl-C
            raise KeyboardInterrupt
        sys.exit(status)
    except _UsageError as error:
        _refuse_usage(error, debug)
    except TrainingInterrupted as error:
        _fail(error, debug, _INTERRUPTED)
    except AuscultError as error:
        _fail(error, debug, _REFUSED)
    except KeyboardInterrupt as error:
        _fail(
            AuscultError("stopped", "a long `fit` or `score` goes on with --resume, a `download` by itself"),
            debug,
            _INTERRUPTED,
            error,
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(DONE_WITH_GAPS)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        remedy = "use fewer --threads, shorter clips or a smaller network"
        _fail(AuscultError("the memory is full", remedy), debug, _REFUSED, error)
    except OSError as error:
        what = f"{error.filename or 'output'}: {(error.strerror or str(error)).lower()}"
        _fail(
            AuscultError(what, "see that it is there, permitted, and that the disk has space"), debug, _REFUSED, error
        )


@app.callback(invoke_without_command=True)
def _program(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of a failure.")] = False,  # noqa: ARG001
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def _refuse_usage(error: typer.BadParameter, debug: bool) -> NoReturn:
    """Say what is wrong with the command itself; without any arguments, the help has just been shown."""
    what = error.format_message().strip()
    if not what:
        sys.exit(_REFUSED)
    path = error.ctx.command_path if error.ctx else "auscult"
    _fail(AuscultError(what.rstrip("."), f"see {path} --help"), debug, _REFUSED, error)


def _fail(error: AuscultError, debug: bool, status: int, cause: BaseException | None = None) -> NoReturn:
    if debug:
        raise cause or error
    with contextlib.suppress(BrokenPipeError):
        tell(str(error))
    sys.exit(status)
