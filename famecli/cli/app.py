"""The command line: assembly of the commands, and what happens when one fails."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer

from famecli import __version__
from famecli.cli.compare import compare
from famecli.cli.compress import compress, decompress
from famecli.cli.datasets import app as datasets
from famecli.cli.evaluate_nll import evaluate_nll
from famecli.cli.grouping import App, flags_for_parameters, with_usual_first
from famecli.cli.info import info
from famecli.cli.reconstruct import reconstruct
from famecli.cli.report import report
from famecli.cli.sample import sample
from famecli.cli.train import train
from famecli.cli.verify import verify
from famecli.cli.weights import app as weights
from famecli.errors import ExitCode, FameError, truncate
from famecli.output import Output, give_up_stdout, prepare_streams
from famecli.runtime.memory import is_out_of_memory

app = App(
    name="fame",
    help="Density estimation and exact PixelCNN sampling with FAME and its relatives.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Commands in the order of `fame --help`, each with the parameters of its usual options, in order.
COMMANDS: dict[Callable[..., None], str] = {
    train: "dataset data size images budget_s batch_size lr out init resume seed device",
    evaluate_nll: "dataset model data split limit importance_samples per_image coded batch_size seed device",
    compare: "",
    verify: "dataset model data checks samples images limit seed device",
    sample: "dataset model number out force temperature complete rows mask batch_size seed device",
    reconstruct: "dataset model data split number out force samples interpolate steps seed device",
    compress: "dataset model data split start limit out force",
    decompress: "",
    report: "out figures samples images evaluate limit data seed force device",
    info: "",
}
for command, usual in COMMANDS.items():
    app.command()(with_usual_first(command, usual.split()) if usual else command)
app.add_typer(datasets, name="datasets")
app.add_typer(weights, name="weights", help="List, fetch, check and import named weights.")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"famecli {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Density estimation and exact PixelCNN sampling with FAME and its relatives."""


def _end(number: int, frame: FrameType | None) -> None:
    """End by an exception, so that temporary files are removed."""
    sys.exit(ExitCode.TERMINATED)


@contextmanager
def _ended_by_exception() -> Iterator[None]:
    """Turn SIGTERM into an exit, unless it has a handler or is ignored; afterwards it kills again."""
    ours = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@_ended_by_exception()
def main() -> None:
    """Run the command line; end the process with one of `ExitCode`."""
    prepare_streams()
    if sys.stdout is None:
        Output().fail("stdout is closed, and the result would go there", "redirect it: > /dev/null")
        sys.exit(ExitCode.BAD_INPUT)
    try:
        # In standalone mode Typer would print its own errors, over several lines.
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        _explain(error)
        sys.exit(error.exit_code)
    except typer.Abort:
        sys.exit(ExitCode.INTERRUPTED)
    except SystemExit as stop:
        # Typer exits like this when the reader of a pipe is gone.
        if isinstance(stop.__context__, BrokenPipeError):
            sys.exit(ExitCode.BROKEN_PIPE)
        raise
    except (FameError, MemoryError, RuntimeError, OSError, ImportError) as error:
        if os.environ.get("FAME_DEBUG", "") not in ("", "0"):
            raise
        known = _as_fame_error(error)
        if known is None:
            raise
        message, hint, code = known
        # Frames hold memory that is needed to print.
        error.__traceback__ = error.__context__ = None
        try:
            Output().fail(message, hint)
            give_up_stdout()
        except MemoryError:
            os.write(2, b"error: out of memory\n")
    sys.exit(code or ExitCode.OK)


def _explain(error: typer.TyperException) -> None:
    """Print a usage error in one line, and where to look."""
    # The option parser puts the kind of an error, `Value error, `, before its message.
    message = truncate(error.format_message().replace("Value error, ", ""), 300) or "no command"
    hint = "fame --help lists the commands, fame COMMAND --help the options of one"
    word = message.removeprefix("No such command '").removesuffix("'.")
    context = getattr(error, "ctx", None)
    # Commands of the group that was typed; other commands have none.
    names = getattr(context and context.command, "commands", ())
    longer = [name for name in names if name.startswith(word)]
    Output().fail(message, f"did you mean {longer[0]}?" if longer else hint)


def _as_fame_error(error: Exception) -> tuple[str, str, ExitCode] | None:
    """Return message, hint and exit code; None for a bug."""
    if isinstance(error, FameError):
        return flags_for_parameters(str(error)), flags_for_parameters(error.hint), error.exit_code
    if isinstance(error, OSError) and not is_out_of_memory(error):
        return str(error), "free space, or choose another place", ExitCode.BAD_INPUT
    if is_out_of_memory(error):
        hint = "free memory, or choose a smaller --batch-size where the command has one"
        return "out of memory", hint, ExitCode.OUT_OF_MEMORY
    return None
