"""Groups of options: a command takes a dataclass as one argument, and its fields become options.

    @grouped
    def info(*, source: CheckpointSource, common: Common, tensors: Tensors = False) -> None: ...

`Annotated[DATACLASS, {FIELD: OPTION}]` makes a group of a library dataclass. Other groups of the command
declare the options of the remaining fields.
"""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, get_args, get_origin, get_type_hints

# Largest value of whole numbers without one of their own.
LARGEST_COUNT = 10**12
# Flag of each parameter of a command with groups.
FLAGS: dict[str, str] = {}


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

    for each in parameters.values():
        _limit(each.annotation)
    FLAGS.update({name: flag for name, each in parameters.items() if (flag := _flag(each.annotation))})

    @functools.wraps(command)
    def run(**values: object) -> None:
        # Exclude groups: a field of a group may have the group's name.
        own = {name: value for name, value in values.items() if name in hints.keys() - groups.keys()}
        command(**own, **{name: _filled(_bare(group), values) for name, group in groups.items()})

    # Typer reads annotations and signature, and would follow `__wrapped__` to the groups.
    del run.__wrapped__
    run.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    return run


def flags_for_parameters(text: str) -> str:
    """Return an error of the library with flags in place of its parameters in backticks."""

    def flag(match: re.Match[str]) -> str:
        name, value = match.groups()
        if (name, value) == ("resume", "False"):
            return "--resume never"
        given = "" if value in (None, "True") else f" {value}"
        return f"{FLAGS[name]}{given}" if name in FLAGS else match[0]

    return re.sub(r"`([a-z_]+)(?:=([^`]*))?`", flag, text)


def _flag(annotation: object) -> str:
    """Return the first long flag of an option; empty for an argument."""
    options = getattr(annotation, "__metadata__", ())
    flags = [flag for each in options for flag in (each.default, *(each.param_decls or ()))]
    return next((str(flag).partition("/")[0] for flag in flags if str(flag).startswith("--")), "")


def _limit(annotation: Any) -> None:  # noqa: ANN401
    """Give an option of whole numbers a largest value, if it has none."""
    for option in getattr(annotation, "__metadata__", ()):
        if option.min is not None and option.max is None and float not in get_args(_bare(annotation)):
            option.max = LARGEST_COUNT


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
    """Return a group with the values of the command's options."""
    hints = get_type_hints(group)
    return group(
        **{
            field.name: _filled(hints[field.name], values)
            if dataclasses.is_dataclass(hints[field.name])
            else values[field.name]
            for field in dataclasses.fields(group)
        }
    )
