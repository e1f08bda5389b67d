"""Groups of options: a command takes a dataclass as one argument, and its fields become options.

    @grouped
    def info(*, source: CheckpointSource, common: Common, tensors: Tensors = False) -> None: ...

`Annotated[DATACLASS, {FIELD: OPTION}]` makes a group of a library dataclass. Other groups of the command
declare the options of the remaining fields, or these keep their defaults.
"""

import copy
import dataclasses
import functools
import inspect
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from famecli.config.schema import LARGEST_COUNT, LARGEST_SEED
from famecli.errors import UsageError, truncate

# Panel of the options that all commands have.
COMMON = "Common"
# Panel of the help for options that few need, below the usual ones.
MORE = "More options"
# Flag of each parameter of a command with groups.
FLAGS: dict[str, str] = {}


C = TypeVar("C", bound=Callable[..., Any])


class _Help:
    """Help of a command that shows no type for flags, since they take no value."""

    def get_params(self, ctx: Any) -> list[Any]:  # noqa: ANN401
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for each in found:
            if getattr(each, "is_flag", False) and each.metavar is None:
                each.metavar = ""
        return found


class _Command(_Help, TyperCommand):
    pass


class _Group(_Help, TyperGroup):
    pass


class App(typer.Typer):
    """An app whose help is readable at any width: no types of flags, no line breaks within a paragraph."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(cls=_Group, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[C], C]:  # noqa: ANN401
        """Return a decorator that adds a command; see `typer.Typer.command`."""

        def add(command: C) -> C:
            text = re.sub(r"(\S)\n(\S)", r"\1 \2", inspect.getdoc(command) or "")
            return typer.Typer.command(self, name, cls=_Command, help=text, **settings)(command)

        return add


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command whose signature has the options of each group in place of the group.

    Groups in fields are replaced, too. A group in two places, such as `Network` in a command and in another
    group, is declared once and has one value.

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

    FLAGS.update({name: flag for name, each in parameters.items() if (flag := _flag(each.annotation))})

    @functools.wraps(command)
    def run(**values: object) -> None:
        _check_counts(values)
        # Exclude groups: a field of a group may have the group's name.
        own = {name: value for name, value in values.items() if name in hints.keys() - groups.keys()}
        command(**own, **{name: _filled(_bare(group), values) for name, group in groups.items()})

    # Typer reads annotations and signature, and would follow `__wrapped__` to the groups.
    del run.__wrapped__
    run.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    return run


def with_usual_first(command: Callable[..., None], usual: Sequence[str]) -> Callable[..., None]:
    """Return a command whose help shows the usual options first, and the others in panels below.

    Args:
        command: Command that `grouped` returned.
        usual: Parameters of the usual options, in the order of the help.

    Raises:
        KeyError: The command has no such parameter.
    """
    declared = inspect.signature(command).parameters

    def moved(parameter: inspect.Parameter) -> inspect.Parameter:
        if not _flag(parameter.annotation):
            return parameter
        # A copy: other commands declare the same option.
        option = copy.copy(parameter.annotation.__metadata__[0])
        option.rich_help_panel = None if parameter.name in usual else option.rich_help_panel or MORE
        return parameter.replace(annotation=Annotated[_bare(parameter.annotation), option])

    others = [moved(each) for name, each in declared.items() if name not in usual]
    parameters = [*(moved(declared[name]) for name in usual), *sorted(others, key=_place)]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def flags_for_parameters(text: str) -> str:
    """Return an error of the library with flags in place of its parameters in backticks."""

    def flag(match: re.Match[str]) -> str:
        name, value = match.groups()
        if (name, value) == ("resume", "False"):
            return "--resume never"
        given = "" if value in (None, "True") else f" {shlex.quote(value)}"
        return f"{FLAGS[name]}{given}" if name in FLAGS else match[0]

    return re.sub(r"`([a-z_]+)(?:=([^`]*))?`", flag, text)


def _place(parameter: inspect.Parameter) -> int:
    """Return the place of a panel: arguments and more options, then topics, then the common options."""
    declared = getattr(parameter.annotation, "__metadata__", (None,))[0]
    panel = getattr(declared, "rich_help_panel", None)
    return 2 if panel == COMMON else int(panel not in (None, MORE))


def _flag(annotation: object) -> str:
    """Return the first long flag of an option; empty for an argument."""
    options = getattr(annotation, "__metadata__", ())
    flags = [flag for each in options for flag in (each.default, *(each.param_decls or ()))]
    return next((str(flag).partition("/")[0] for flag in flags if str(flag).startswith("--")), "")


def _check_counts(values: Mapping[str, object]) -> None:
    """Refuse absurd whole numbers; as ranges of the options they would fill the help.

    Raises:
        UsageError: A number is too large.
    """
    for name, value in values.items():
        most = LARGEST_SEED if name == "seed" else LARGEST_COUNT
        if type(value) is int and value > most:
            raise UsageError(f"{FLAGS[name]} {truncate(value, 40)} is above {most}")


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
        if dataclasses.is_dataclass(_bare(hints.get(field.name))):
            yield from _options(hints[field.name])
        elif field.name in hints:
            default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
            yield inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name]
            )


def _filled(group: Any, values: dict[str, Any]) -> Any:  # noqa: ANN401
    """Return a group with the values of the command's options."""
    hints = get_type_hints(group)
    return group(
        **{
            field.name: _filled(hints[field.name], values)
            if dataclasses.is_dataclass(hints[field.name])
            else values[field.name]
            for field in dataclasses.fields(group)
            if field.name in values or dataclasses.is_dataclass(hints[field.name])
        }
    )
