"""Frozen, validated configurations; every value that a checkpoint needs to be rebuilt. No torch here."""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar

from famecli.errors import ArgumentError, ConfigError, truncate

# Largest number in untrusted input: axes of charts would overflow beyond it.
LARGEST_NUMBER = 1e15
LARGEST_SEED, LARGEST_COUNT = 2**63 - 1, 10**12
# Larger integers are no floating-point numbers.
LARGEST_INTEGER = 2**1023
T = TypeVar("T")
# An attention mask has the square of this many entries.
MOST_PLACES = 4096
MOST_CLASSES, LONGEST_CLASS = 4096, 100
# Precision of the forward pass in training; "bf16" is torch's autocast.
Precision = Literal["fp32", "bf16"]


def described(meaning: str, default: Any = dataclasses.MISSING) -> Any:  # noqa: ANN401
    """Declare a key with its meaning, as `famecli.config.resolve.keys` lists it."""
    return field(default=default, metadata={"meaning": meaning})


def ranged(minimum: float, maximum: float, meaning: str, default: Any = dataclasses.MISSING) -> Any:  # noqa: ANN401
    """Declare a key with its allowed range, ends included, and its meaning."""
    metadata = {"minimum": minimum, "maximum": maximum, "meaning": meaning}
    return field(default=default, metadata=metadata)


def check_ranges(config: Any, where: str) -> list[str]:  # noqa: ANN401
    """Return one sentence per field of `config` that lies outside its declared range."""
    ranges = [
        (item, getattr(config, item.name), item.metadata["minimum"], item.metadata["maximum"])
        for item in dataclasses.fields(config)
        if "minimum" in item.metadata
    ]
    return [
        f"{where}{item.name} = {value} is outside {low} to {high} ({item.metadata['meaning']})"
        for item, value, low, high in ranges
        if not low <= value <= high
    ]


def misfit_of_classes(names: Sequence[str]) -> str:
    """Return why `names` are not names of classes; empty if they are."""
    if len(names) == 1 or len(names) > MOST_CLASSES:
        return f"{len(names)} of them, expected 2 to {MOST_CLASSES:,}"
    if len(set(names)) < len(names):
        return "two have the same name"
    # Unprintable characters could change what a terminal shows; lone surrogates cannot be encoded in a file.
    bad = [name for name in names if not (1 <= len(name) <= LONGEST_CLASS and name.isprintable())]
    return f"{truncate(ascii(bad[0]))} does not have 1 to {LONGEST_CLASS} printable characters" if bad else ""


@dataclass(frozen=True)
class StageConfig:
    """One stage of the ladder, at one resolution."""

    width: int = ranged(1, 4096, "feature maps of the deterministic paths")
    blocks: int = ranged(0, 256, "residual blocks in each direction")
    stride: int = ranged(1, 2, "downsampling from the stage below, or from the image", 1)
    latents: int = ranged(0, 4096, "latent maps, or entries of a dense latent; 0: no stochastic layer", 0)
    dense: bool = described("whether the latents are a vector per image instead of maps", False)


@dataclass(frozen=True)
class DecoderConfig:
    """Network from the features of the last stochastic layer to the distribution of each pixel."""

    autoregressive: bool = described("whether the decoder is a PixelCNN; else pixels are independent")
    width: int = ranged(1, 4096, "feature maps per patch")
    layers: int = ranged(0, 256, "gated residual layers")
    kernel: int = ranged(1, 15, "kernel size of the gated layers in patches, odd", 3)
    first_kernel: int = ranged(1, 31, "kernel size of the first convolution in patches, odd", 7)
    condition: int = ranged(0, 4096, "feature maps by which the latents condition every layer", 0)
    lag: int = ranged(1, 1024, "patches by which a row's sampling lags behind the row above", 2)
    patch: int = ranged(1, 4, "side in pixels of the patches that the layers work on: 1, 2 or 4", 1)
    attention: tuple[int, ...] = described("layers, from 1, that are followed by an attention block", ())
    heads: int = ranged(1, 64, "heads of an attention block", 4)
    attention_width: int = ranged(0, 4096, "features of queries, of keys and of values; 0: `width`", 0)
    positions: bool = described(
        "whether a learned positional embedding is added to the first features", False
    )

    @property
    def attention_features(self) -> int:
        """Features of the queries, of the keys and of the values of an attention block, all heads."""
        return self.attention_width or self.width

    def misfits(self) -> list[str]:
        """Return one sentence per pair of values that contradict each other."""
        found = []
        for name in ("kernel", "first_kernel"):
            if getattr(self, name) % 2 == 0:
                found.append(f"decoder.{name} = {getattr(self, name)} is not odd")
        if self.patch == 3:
            found.append("decoder.patch = 3 is none of 1, 2, 4")
        if list(self.attention) != sorted({layer for layer in self.attention if 1 <= layer <= self.layers}):
            known = f"increasing numbers of layers, 1 to {self.layers}"
            found.append(f"decoder.attention = {list(self.attention)} are not {known}")
        if self.attention and not self.autoregressive:
            found.append("decoder.attention needs decoder.autoregressive = true")
        # `check_ranges` reports values outside their range.
        if self.attention and self.heads > 0 and self.attention_features % self.heads:
            found.append(f"decoder.heads = {self.heads} does not divide {self.attention_features} features")
        return found


@dataclass(frozen=True)
class ModelConfig:
    """A whole model: an image's shape and levels, the ladder's stages from the image upwards, the decoder.

    Raises:
        ConfigError: A value is outside its range, or values contradict each other; all problems are listed,
            each with the key's name.
    """

    preset: str = described("name of the preset")
    likelihood: Literal["bernoulli", "logistic-mixture"] = described("distribution of a pixel")
    channels: int = ranged(1, 3, "colour channels of an image")
    height: int = ranged(1, 1024, "pixel rows")
    width: int = ranged(1, 1024, "pixel columns")
    levels: int = ranged(2, 256, "values that a pixel can take")
    decoder: DecoderConfig = field(kw_only=True)
    stages: tuple[StageConfig, ...] = field(default=(), kw_only=True)
    mixtures: int = ranged(1, 64, "logistics in the mixture", 10)
    # Both are off in files that lack the keys; presets turn them on.
    normalised: bool = described(
        "whether features are divided by their root mean square before each ELU", False
    )
    bounded_latents: bool = described("whether means and scales of the latents are bounded", False)
    classes: tuple[str, ...] = described(
        "names of the classes that condition the model; none: no classes", ()
    )

    def __post_init__(self) -> None:
        problems = check_ranges(self, "") + check_ranges(self.decoder, "decoder.")
        for index, stage in enumerate(self.stages):
            problems += check_ranges(stage, f"stages[{index}].")
        if problems := problems + self._misfits():
            raise ConfigError("model configuration: " + "; ".join(problems))

    def _misfits(self) -> list[str]:
        decoder = self.decoder
        found = []
        if len(self.stages) > 64:
            found.append(f"stages: {len(self.stages)} of them, at most 64")
        if self.likelihood == "bernoulli" and self.levels != 2:
            found.append(f"levels = {self.levels} does not go with likelihood = bernoulli, which has 2")
        if self.channels == 2:
            found.append("channels = 2 is neither grey (1) nor RGB (3)")
        if decoder.attention and decoder.patch > 0 and (places := math.prod(self.grid)) > MOST_PLACES:
            found.append(f"decoder.attention over {places} patches, at most {MOST_PLACES}")
        if not self.stages and not decoder.autoregressive:
            found.append("stages is empty and decoder.autoregressive is false: nothing models the image")
        if self.stages and not self.stages[-1].latents:
            found.append(
                f"stages[{len(self.stages) - 1}].latents = 0, but the top stage has to be stochastic"
            )
        conditions = f"{len(self.stages)} stages" + (f", {len(self.classes)} classes" if self.classes else "")
        if bool(self.stages or self.classes) != bool(decoder.condition):
            found.append(f"decoder.condition = {decoder.condition} with {conditions}")
        if problem := misfit_of_classes(self.classes):
            found.append(f"classes: {problem}")
        return found + decoder.misfits()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.height, self.width

    @property
    def dimensions(self) -> int:
        """Pixels times channels, the divisor of bits/dim."""
        return self.channels * self.height * self.width

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches; the last ones may reach beyond the image."""
        return -(-self.height // self.decoder.patch), -(-self.width // self.decoder.patch)

    @property
    def stochastic_layers(self) -> int:
        """Number of stages with latents."""
        return sum(stage.latents > 0 for stage in self.stages)

    def check_layers(self, keep_layers: int | None) -> None:
        """Check that the model has latents, and at least `keep_layers` layers of them.

        Raises:
            ArgumentError: The model has no latents, or fewer layers.
        """
        if not self.stochastic_layers:
            raise ArgumentError(
                f"a {self.preset} has no latents to reconstruct from",
                "fame sample with `complete`, or Model.complete, draws the rest of an image",
            )
        if keep_layers is not None and keep_layers > self.stochastic_layers:
            layers = f"{self.stochastic_layers} stochastic layers"
            raise ArgumentError(f"`keep_layers={keep_layers}`: the model has {layers}")

    def resolutions(self) -> list[tuple[int, int]]:
        """Rows and columns of each stage, from the patches upwards; odd sides are rounded up when halved."""
        sides, found = self.grid, []
        for stage in self.stages:
            sides = (-(-sides[0] // stage.stride), -(-sides[1] // stage.stride))
            found.append(sides)
        return found

    def latent_shapes(self) -> list[tuple[int, ...]]:
        """Shape of each stochastic layer's latents, from the image upwards, without the batch."""
        return [
            (stage.latents,) if stage.dense else (stage.latents, *size)
            for stage, size in zip(self.stages, self.resolutions(), strict=True)
            if stage.latents
        ]

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Return the configuration in `data`, as `to_dict` made it; see `build`."""
        return build(cls, data, "model configuration")


# Values of these keys in trainings that began before the keys existed.
FORMER_TRAINING = {"expected_bits": "never", "decay": "cosine", "decay_start": 0.0, "decoder_only": 0.0}


@dataclass(frozen=True)
class TrainConfig:
    """Hyperparameters of a training; counts are in images, so that they mean the same at any batch size."""

    optimizer: Literal["muon", "adamw"] = described(
        "optimizer of large matrices; AdamW trains the rest", "muon"
    )
    lr: float = ranged(0.0, 10.0, "learning rate of AdamW (with muon: for all but large matrices)", 4e-3)
    muon_lr: float = ranged(0.0, 10.0, "learning rate of Muon", 2e-2)
    decay: Literal["linear", "cosine"] = described("fall of learning rates at the end", "linear")
    decay_start: float = ranged(
        0.0, 0.99, "fraction of the images before learning rates fall; 0 if there are 250,000 or more", 0.3
    )
    final_lr: float = ranged(0.0, 1.0, "final learning rate as a fraction of the full one", 0.0)
    weight_decay: float = ranged(0.0, 10.0, "decoupled weight decay", 0.0)
    batch_size: int = ranged(1, 65536, "images per step", 16)
    total_images: int = ranged(1, 10**12, "images seen until the end of the schedule", 500_000)
    warmup_images: int = ranged(0, 10**12, "images until the full learning rate", 6_400)
    rate_warmup_images: int = ranged(
        0, 10**12, "images after the decoder-only part until the KL divergence has its full weight", 38_400
    )
    decoder_only: float = ranged(
        0.0, 0.99, "fraction of the training, at its start, in which the decoder learns without latents", 0.5
    )
    beta: float = ranged(0.0, 1000.0, "weight of the KL divergence; 1 trains the ELBO", 1.0)
    free_nats: float = ranged(0.0, 1000.0, "free nats per stochastic layer: KL below this costs nothing", 1.0)
    ema_halflife_images: int = ranged(0, 10**12, "half-life of the averaged weights", 20_000)
    expected_bits: Literal["auto", "always", "never"] = described(
        "use bit probabilities, not random bits, as targets; auto: while no latents see the bits", "auto"
    )
    augment: Literal["none", "flip", "affine"] = described("random flips or affine maps of images", "none")
    augment_part: float = ranged(0.0, 1.0, "fraction of the training, at its start, with `augment`", 0.7)
    clip_norm: float = ranged(0.0, 1e9, "maximum norm of the gradient, in nats per image", 50.0)
    max_skipped: int = ranged(0, 10**6, "consecutive steps with a non-finite gradient before giving up", 5)
    eval_every_images: int = ranged(1, 10**12, "images between two validations", 25_600)
    valid_images: int = ranged(1, 10**9, "validation images that are evaluated", 1_000)
    seed: int = ranged(0, LARGEST_SEED, "seed of weights, order, bits and latents", 0)

    def __post_init__(self) -> None:
        if problems := check_ranges(self, ""):
            raise ConfigError("training configuration: " + "; ".join(problems))

    @property
    def total_steps(self) -> int:
        """Steps until `total_images` are seen; the last one may pass it."""
        return -(-self.total_images // self.batch_size)

    @property
    def decoder_only_steps(self) -> int:
        """Number of first steps, which train the decoder without latents."""
        return int(self.decoder_only * self.total_steps)

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Return the configuration in `data`, which `to_dict` made, perhaps before some keys; see `build`."""
        whole = FORMER_TRAINING | data if isinstance(data, dict) else data
        return build(cls, whole, "training configuration")


def to_dict(config: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return `config` as a new dictionary of plain values that JSON can hold."""
    table: dict[str, Any] = _plain(dataclasses.asdict(config))
    return table


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Return `value` with lists in place of tuples, as read from JSON or TOML."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def leaves(
    value: Any,  # noqa: ANN401
    kinds: tuple[type, ...] = (dict, list),
    path: tuple[str, ...] = (),
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield path and value of each leaf of `value`; types in `kinds` hold leaves."""
    if not isinstance(value, kinds):
        yield path, value
        return
    entries = value.items() if isinstance(value, dict) else enumerate(typing.cast(list[Any], value))
    for key, entry in entries:
        yield from leaves(entry, kinds, (*path, str(key)))


def differences(before: Any, now: Any, key: str) -> Iterator[str]:  # noqa: ANN401
    """Yield each difference of two tables with equal keys: the key's path and both values."""
    if isinstance(before, dict):
        for name, value in before.items():
            yield from differences(value, now[name], f"{key}.{name}")
    elif isinstance(before, list) and len(before) == len(now):
        for index, value in enumerate(before):
            yield from differences(value, now[index], f"{key}.{index}")
    elif before != now:
        yield f"{key} = {before}, now it is {now}"


def build(cls: type[T], data: object, where: str) -> T:
    """Return the dataclass `cls` made of `data`.

    Raises:
        ConfigError: A key is unknown or missing, or a value has the wrong type; the message names it.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a table of keys, got {type(data).__name__}")
    hints = typing.get_type_hints(cls)
    fields = {item.name: item for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(str(key) for key in data if key not in fields):
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}", f"known keys: {', '.join(fields)}")
    values = {}
    for name, item in fields.items():
        if name in data:
            values[name] = _value(
                hints[name], data[name], f"{where}: {name}", item.metadata.get("meaning", "")
            )
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}: key {name!r} is missing")
    return cls(**values)


def _value(kind: Any, value: object, where: str, meaning: str) -> Any:  # noqa: ANN401
    """Return `value` checked against the annotation `kind`; the hint of an error is the key's meaning."""
    if dataclasses.is_dataclass(kind):
        return build(typing.cast(type, kind), value, where)
    # A union with a Literal is a typing.Union, not a types.UnionType.
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return None if value is None else _value(typing.get_args(kind)[0], value, where, meaning)
    origin = typing.get_origin(kind)
    if origin is Literal:
        if value not in typing.get_args(kind):
            raise ConfigError(
                f"{where} = {truncate(repr(value))} is none of {', '.join(typing.get_args(kind))}", meaning
            )
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, got {type(value).__name__}", meaning)
        item = typing.get_args(kind)[0]
        return tuple(_value(item, entry, f"{where}[{index}]", meaning) for index, entry in enumerate(value))
    if type(value) is int and abs(value) > LARGEST_INTEGER:
        raise ConfigError(f"{where}: a number is out of range", meaning)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"{where}: expected {kind.__name__}, got {truncate(repr(value))}", meaning)
    return value


def known_keys(cls: type, table: object) -> object:
    """Return a table without the keys that the dataclass `cls` lacks; any other value as it is."""
    names = {field.name for field in dataclasses.fields(cls)}
    return {key: value for key, value in table.items() if key in names} if isinstance(table, dict) else table


def build_known(cls: type[T], table: object, where: str) -> T:
    """Return the dataclass `cls` made of an untrusted table; unknown keys are ignored.

    Raises:
        ConfigError: A key is missing, or a value has a wrong type or range; the message begins with `where`.
    """
    try:
        return build(cls, known_keys(cls, table), where)
    except ConfigError as error:
        named = str(error).startswith(where)
        raise (error if named else ConfigError(f"{where}: {error}", error.hint)) from error
