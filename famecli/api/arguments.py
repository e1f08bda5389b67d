"""Arguments of calls, checked before a model sees them: pixels, numbers, words, estimators."""

import operator
import os
from collections.abc import Callable, Iterable
from os import PathLike
from typing import Any, TypeVar, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from famecli.config.schema import LARGEST_COUNT, LARGEST_SEED, ModelConfig
from famecli.data.preparation import AS_THEY_ARE, Preparation
from famecli.errors import ArgumentError, ArgumentTypeError, truncate
from famecli.evaluation.score import EstimatorSettings
from famecli.nll.record import Annealing, Start

# Callback that takes the number of images done and the total.
Progress = Callable[[int, int], None]

Array = npt.NDArray[Any]
# Dtypes that numpy has, too.
INTEGERS = (
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)
# Functions return arrays for arrays, and tensors for tensors.
Pixels = TypeVar("Pixels", npt.NDArray[Any], Tensor)


def levels_of(x: Array | Tensor, config: ModelConfig, known: Array | None = None) -> npt.NDArray[np.uint8]:
    """Return levels in the form that models take, `(N, C, H, W)`, uint8.

    Args:
        x: Integer levels of that shape, or booleans if a pixel has two levels.
        config: Configuration of the model.
        known: Mask of the pixels that count, `(H, W)`; the others become 0. None for all pixels.

    Raises:
        ArgumentTypeError: `x` is no array or tensor of integers.
        ArgumentError: `x` has another shape, no image, or a level that the model does not have.
    """
    _check_kind(x, config.levels)
    _check_dense(x)
    _check_shape(tuple(x.shape), config)
    found: Array = x.detach().cpu().numpy() if isinstance(x, Tensor) else x
    found = found if known is None else np.where(known, found, 0)
    least, most = int(found.min()), int(found.max())
    if least < 0 or most >= config.levels:
        bad = least if least < 0 else most
        raise ArgumentError(f"x has a level of {bad}, expected 0 to {config.levels - 1}")
    # Writable, since torch warns of arrays that are not.
    return np.require(found, np.uint8, ["C", "W"])


def shown_of(x: Array | Tensor, config: ModelConfig) -> Array:
    """Return levels as `levels_of` does, and expected levels (floats) as an array; errors are the same."""
    if isinstance(x, Tensor) and x.is_floating_point():
        _check_dense(x)
        x = x.detach().cpu().float().numpy()
    if not (isinstance(x, np.ndarray) and x.dtype.kind == "f"):
        return levels_of(x, config)
    _check_shape(tuple(x.shape), config)
    # Means may exceed the levels by rounding.
    if not (np.isfinite(x).all() and x.min() > -0.01 and x.max() < config.levels - 0.99):
        raise ArgumentError(f"x has values beyond 0 to {config.levels - 1}, or ones that are not finite")
    return x


def _check_dense(x: object, name: str = "x") -> None:
    if isinstance(x, Tensor) and (x.layout != torch.strided or x.is_meta or x.is_nested):
        kind = "no values (meta)" if x.is_meta else "nested values" if x.is_nested else f"layout {x.layout}"
        raise ArgumentTypeError(f"{name} is a tensor with {kind}, expected a dense one")


def _check_shape(shape: tuple[int, ...], config: ModelConfig) -> None:
    if len(shape) != 4 or shape[1:] != config.image_shape:
        expected = ", ".join(map(str, config.image_shape))
        raise ArgumentError(f"x has shape {shape}, expected (N, {expected})")
    if not shape[0]:
        raise ArgumentError(f"x has shape {shape}, expected at least one image")


def _check_kind(x: object, levels: int) -> None:
    expected = f"integer levels 0 to {levels - 1}" + (", or booleans" if levels == 2 else "")
    if isinstance(x, Tensor):
        boolean = x.dtype == torch.bool
        integer = x.dtype in INTEGERS
    elif isinstance(x, np.ndarray):
        boolean, integer = x.dtype.kind == "b", x.dtype.kind in "iu"
    else:
        raise ArgumentTypeError(
            f"x is of type {type(x).__name__}, expected a numpy array or a torch tensor of {expected}"
        )
    if not (integer or (boolean and levels == 2)):
        raise ArgumentTypeError(f"x has dtype {x.dtype}, expected {expected}")


def like(found: Array, x: Pixels) -> Pixels:
    """Return an array as it is, or as a tensor on the device of `x` if `x` is a tensor."""
    if isinstance(x, Tensor):
        tensor = torch.from_numpy(found)
        # MPS has no double precision.
        return tensor if x.device.type == "mps" and found.dtype == np.float64 else tensor.to(x.device)
    return found


def mask_of(mask: Array | Tensor, config: ModelConfig) -> npt.NDArray[np.bool_]:
    """Return a mask of the pixels of an image, `(H, W)`.

    Raises:
        ArgumentTypeError: `mask` is no array or tensor of booleans.
        ArgumentError: `mask` has another shape.
    """
    if not isinstance(mask, Tensor | np.ndarray) or mask.dtype not in (torch.bool, np.dtype(bool)):
        found = getattr(mask, "dtype", type(mask).__name__)
        raise ArgumentTypeError(f"mask is of type {found}, expected booleans, True where a pixel is known")
    _check_dense(mask, "mask")
    if tuple(mask.shape) != (config.height, config.width):
        expected = (config.height, config.width)
        raise ArgumentError(f"mask has shape {tuple(mask.shape)}, expected {expected}")
    return np.ascontiguousarray(mask.cpu().numpy() if isinstance(mask, Tensor) else mask)


def whole(name: str, value: object, least: int, most: int | None = None) -> int:
    """Return the argument `name` of a call as a whole number.

    Raises:
        ArgumentTypeError: `value` is no whole number.
        ArgumentError: `value` is out of range.
    """
    try:
        found = operator.index(value)  # type: ignore[arg-type]
        if isinstance(value, bool | np.bool_):
            raise TypeError
    except TypeError as error:
        raise ArgumentTypeError(f"{name} is {truncate(repr(value))}, expected a whole number") from error
    largest = LARGEST_COUNT if most is None else most
    if not least <= found <= largest:
        bounds = f"at least {least}" if found < least and most is None else f"{least} to {largest}"
        raise ArgumentError(f"{name} is {found}, expected {bounds}")
    return found


def number(name: str, value: object, least: float, most: float) -> float:
    """Return the argument `name` of a call as a number; errors are those of `whole`."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating | np.integer):
        raise ArgumentTypeError(f"{name} is {truncate(repr(value))}, expected a number")
    try:
        found = float(value)
    except OverflowError as error:
        raise ArgumentError(f"{name} is inf, expected {least:g} to {most:g}") from error
    if not least <= found <= most:
        raise ArgumentError(f"{name} is {found:g}, expected {least:g} to {most:g}")
    return found


def choice(name: str, value: object, words: tuple[str, ...]) -> None:
    """Check that the argument `name` of a call is one of `words`.

    Raises:
        ArgumentError: `value` is another word.
    """
    if not isinstance(value, str) or value not in words:
        raise ArgumentError(f"{name} is {truncate(repr(value))}, expected {' or '.join(map(repr, words))}")


def text_of(name: str, value: object) -> str:
    """Return the argument `name` of a call, a name or a path, as text.

    Raises:
        ArgumentTypeError: `value` is neither.
    """
    if not isinstance(value, str | PathLike):
        raise ArgumentTypeError(f"{name} is of type {type(value).__name__}, expected a name or a path")
    found = os.fsdecode(value)
    if "\0" in found:
        raise ArgumentError(f"{name} is {found!r}, no path has a null character")
    return found


def words_of(name: str, value: object) -> tuple[str, ...]:
    """Return the argument `name` of a call, a word or several, as words.

    Raises:
        ArgumentTypeError: `value` is something else.
    """
    words = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
    if not all(isinstance(word, str) for word in words):
        raise ArgumentTypeError(f"{name} is {truncate(repr(value))}, expected words")
    return words


def preparation_of(value: object) -> Preparation:
    """Return the preparation in a call's arguments; for None, images as they are.

    Raises:
        ArgumentTypeError: `value` is something else.
    """
    if value is not None and not isinstance(value, Preparation):
        raise ArgumentTypeError(f"preparation is {truncate(repr(value))}, expected famecli.Preparation(...)")
    return value or AS_THEY_ARE


def check_callback(progress: object) -> None:
    """Check that the argument `progress` of a call can be called.

    Raises:
        ArgumentTypeError: It cannot.
    """
    if progress is not None and not callable(progress):
        raise ArgumentTypeError(f"progress is {truncate(repr(progress))}, expected a function")


def counted(progress: Progress | None, total: int) -> Callable[[int], None]:
    """Return a callback that adds up the images just done and passes the sum to `progress`.

    Raises:
        ArgumentTypeError: `progress` is no function.
    """
    check_callback(progress)
    done = 0

    def advance(images: int) -> None:
        nonlocal done
        done += images
        if progress is not None:
            progress(done, total)

    return advance


def estimator_of(
    importance_samples: int,
    annealing: Annealing | int | None,
    seed: int,
    batch_size: int | None,
    *,
    marginal: bool = False,
) -> EstimatorSettings:
    """Return the estimator that the arguments of a call describe.

    Raises:
        ArgumentError: A value is out of range, or there are both `annealing` and several importance samples.
        ArgumentTypeError: A number is no whole number.
    """
    draws = whole("importance_samples", importance_samples, 1)
    if annealing is not None and draws != 1:
        raise ArgumentError("importance_samples and annealing exclude each other", "anneal several chains")
    if isinstance(annealing, Annealing):
        choice("start", annealing.start, get_args(Start))
        annealing = Annealing(
            whole("steps", annealing.steps, 1),
            whole("chains", annealing.chains, 1),
            whole("leapfrog", annealing.leapfrog, 1),
            annealing.start,
        )
    elif annealing is not None:
        annealing = Annealing(whole("annealing", annealing, 1))
    batch = None if batch_size is None else whole("batch_size", batch_size, 1)
    return EstimatorSettings(draws, annealing, whole("seed", seed, 0, LARGEST_SEED), batch, marginal)
