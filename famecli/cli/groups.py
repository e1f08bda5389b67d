"""Options that several commands share: a dataclass declares each option once.

A command takes a group as one argument::

    @grouped
    def info(checkpoint: CheckpointArgument = None, *, network: Network, common: Common) -> None: ...

A dataclass of the library is a group by `Annotated[DATACLASS, {FIELD: OPTION}]`. Other groups of the command
declare the options of the remaining fields.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import typer

from famecli.checkpoints.store import Store
from famecli.output import Output

if TYPE_CHECKING:
    import torch

COMMON = "Common"


@dataclass(frozen=True)
class Common:
    """Form of the result on stdout."""

    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=COMMON)] = (
        False
    )
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Print only the result's main value.", rich_help_panel=COMMON),
    ] = False

    def output(self) -> Output:
        """Return the streams of the command."""
        return Output(json=self.json, quiet=self.quiet)


@dataclass(frozen=True)
class Network:
    """Downloads, and the folder that keeps them."""

    offline: Annotated[
        bool,
        typer.Option(
            "--offline", help="Never use the network.", envvar="FAME_OFFLINE", rich_help_panel=COMMON
        ),
    ] = False
    cache_dir: Annotated[
        Path | None,
        typer.Option(
            "--cache-dir", metavar="FOLDER", help="Folder of downloaded files.", rich_help_panel=COMMON
        ),
    ] = None

    def store(self, output: Output) -> Store:
        """Return the named weights of this machine; downloads are announced on stderr."""
        return Store(self.cache_dir, self.offline, output.note)


@dataclass(frozen=True)
class Machine:
    """Device and threads."""

    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            min=1,
            help="CPU threads (default: all cores).",
            envvar="FAME_THREADS",
            rich_help_panel=COMMON,
        ),
    ] = None
    device: Annotated[
        str,
        typer.Option(
            "--device",
            metavar="auto|cpu|cuda[:i]|mps",
            help="Device to compute on.",
            envvar="FAME_DEVICE",
            rich_help_panel=COMMON,
        ),
    ] = "auto"

    def torch_device(self) -> "torch.device":
        """Return the device, after the number of CPU threads is set.

        Raises:
            UsageError: The device's kind is unknown.
            UnavailableError: The device is not on this machine.
        """
        import torch

        from famecli.runtime.devices import device_named

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return device_named(self.device)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command in whose signature each group is replaced by its options.

    A field that is a group itself is replaced, too. Options of one name are one option: all groups that
    declare it share its value.

    Args:
        command: Function whose groups are keyword arguments without defaults.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(_bare(hint))}
    parameters: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters |= {each.name: each for each in _options(groups[name])}
        else:
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters[name] = parameter.replace(annotation=hints[name], kind=kind)

    @functools.wraps(command)
    def run(**values: object) -> None:
        own = {name: value for name, value in values.items() if name in hints}
        command(**own, **{name: _filled(_bare(group), values) for name, group in groups.items()})

    # Typer reads both, and would follow `__wrapped__` to the groups.
    del run.__wrapped__
    run.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    return run


def _bare(hint: Any) -> Any:  # noqa: ANN401
    """Return the type in an annotation."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _options(group: Any) -> Iterator[inspect.Parameter]:  # noqa: ANN401
    """Yield the options of a group as parameters."""
    hints, bare = get_type_hints(_bare(group), include_extras=True), _bare(group)
    if bare is not group:
        (flags,) = group.__metadata__
        hints = {name: Annotated[hints[name], option] for name, option in flags.items()}
    for field in dataclasses.fields(bare):
        if dataclasses.is_dataclass(hints.get(field.name)):
            yield from _options(hints[field.name])
        elif field.name in hints:
            default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
            yield inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name]
            )


def _filled(group: Any, values: dict[str, Any]) -> Any:  # noqa: ANN401
    """Return a group with the values that the command was given."""
    hints = get_type_hints(group)
    return group(
        **{
            field.name: _filled(hints[field.name], values)
            if dataclasses.is_dataclass(hints[field.name])
            else values[field.name]
            for field in dataclasses.fields(group)
        }
    )
