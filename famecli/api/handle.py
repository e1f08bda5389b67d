"""The handle of a model.

Pixels are integer levels, 0 to `config.levels - 1`, `(N, C, H, W)`. Numpy arrays and torch tensors go in, and
the same kind comes out, except from `nll`. Nothing is printed, and the settings of torch stay as they are.
"""

from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt
from torch import Tensor

from famecli.api.arguments import (
    Array,
    Pixels,
    Progress,
    choice,
    counted,
    estimator_of,
    levels_of,
    like,
    mask_of,
    number,
    preparation_of,
    shown_of,
    text_of,
    whole,
    words_of,
)
from famecli.checkpoints.checkpoint import Checkpoint
from famecli.coding.compress import check_model, decode_images, encode_images
from famecli.coding.container import from_bytes, to_bytes
from famecli.config.schema import LARGEST_SEED, ModelConfig
from famecli.data.dataset import read_files
from famecli.data.image_writers import levels_to_bytes
from famecli.data.labels import Labels, labels_of, labels_or_random
from famecli.data.preparation import Preparation
from famecli.errors import ArgumentError, ArgumentTypeError, did_you_mean
from famecli.grids import grid
from famecli.nll.evaluate import ImageNlls, checked_draws
from famecli.nll.record import Annealing, NllRecord
from famecli.runtime.devices import undisturbed
from famecli.sampling.generate import SWEEPS, DecoderOutput, complete_batches, generate_batches
from famecli.sampling.reconstruction import Settings, reconstruct
from famecli.verification.findings import CHECKS, CheckResult
from famecli.verification.runner import verify
from famecli.verification.subject import Subject

if TYPE_CHECKING:
    from PIL.Image import Image

OUTPUTS = get_args(DecoderOutput)
# All checks but that of claims, which needs a data set.
OWN_CHECKS = tuple(name for name in CHECKS if name != "claims")


class Model:
    """A model with its weights, made by `load` and `train`.

    Args:
        checkpoint: Loaded checkpoint, with the model on its device.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    def __repr__(self) -> str:
        config = self.config
        return f"<{config.preset} from {self.name}: {config.image_shape} images of {config.levels} levels>"

    @property
    def name(self) -> str:
        """File of the checkpoint."""
        return self.checkpoint.source

    @property
    def config(self) -> ModelConfig:
        """Shape and levels of images, stages of latents, decoder."""
        return self.checkpoint.model.config

    @property
    def claims(self) -> list[NllRecord]:
        """NLLs that the checkpoint records, the one on most images first."""
        return self.checkpoint.claims

    def read(self, *paths: str | PathLike[str], preparation: Preparation | None = None) -> Array:
        """Return your own images as levels `(N, C, H, W)`, uint8.

        Args:
            paths: Image files, folders of them, archives and arrays.
            preparation: Preparation of the images; what it leaves open is as for the training images.

        Raises:
            InputError: There is no image, or one has another size, is damaged or needs a lossy conversion.
        """
        how = self.checkpoint.provenance.prepared(preparation_of(preparation))
        return read_files(self.config, [text_of("path", path) for path in paths], how).pixels

    def sample(
        self,
        n: int,
        *,
        labels: Labels | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        latent_temperature: float = 1.0,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> npt.NDArray[np.uint8]:
        """Return `n` images, levels `(n, C, H, W)`. Image `k` depends only on `seed + k`.

        Args:
            n: Number of images.
            labels: Class of all images, or of each: a name or index in `config.classes`; None: random ones.
            seed: Seed of the first image.
            temperature: Temperature of the pixel distributions, 0.01 to 100; 1 leaves them unchanged.
            latent_temperature: Factor on the standard deviations of the priors, 0 to 100; 1 without latents.
            batch_size: Images drawn at once; None for 64 per process on a CPU and 1024 on a GPU.
            progress: Called with the images done and `n`.

        Raises:
            ArgumentError: A number is out of range, or there is no such class.
            NumericsError: The NLL of an image is not finite.
        """
        first = whole("seed", seed, 0, LARGEST_SEED)
        seeds = range(first, first + whole("n", n, 0))
        batch = None if batch_size is None else whole("batch_size", batch_size, 1)
        pixels = number("temperature", temperature, 0.01, 100.0)
        latents = number("latent_temperature", latent_temperature, 0.0, 100.0)
        model, classes = self.checkpoint.model, labels_or_random(self.config.classes, labels, seeds)
        batches = generate_batches(
            model, seeds, classes, batch_size=batch, temperature=pixels, latent_temperature=latents
        )
        return self._gathered(checked_draws(model, batches, seeds, classes), counted(progress, n))

    def _gathered(
        self, batches: Iterator[npt.NDArray[Any]], advance: Callable[[int], None]
    ) -> npt.NDArray[np.uint8]:
        parts = [np.zeros((0, *self.config.image_shape), np.uint8)]
        with undisturbed():
            for part in batches:
                parts.append(part)
                advance(len(part))
        return np.concatenate(parts)

    def nll(
        self,
        x: Array | Tensor,
        *,
        labels: Labels | None = None,
        marginal: bool = False,
        importance_samples: int = 1,
        annealing: Annealing | int | None = None,
        seed: int = 0,
        first_index: int = 0,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> ImageNlls:
        """Return the NLL of each image, float64 numpy arrays, nats: exact without latents, else a bound.

        `nats` and `distortion` are `(N,)`, `rate` is `(N, layers)`, `bound` is `exact`, `elbo`, `iwae` or
        `ais`. With `marginal`, `most_probable` has the index of each image's most probable class, `(N,)`.

        Args:
            x: Levels `(N, C, H, W)`.
            labels: Name or index in `config.classes`, for all images or for each; None without classes.
            marginal: Whether to take the mean of p(x|y) over all classes, which needs no labels.
            importance_samples: Draws of the latents per image: 1 for the ELBO, more for a tighter bound.
            annealing: Settings of annealed importance sampling, or number of steps; None for no annealing.
            seed: Seed of the latents.
            first_index: Index of the first image; image `i` draws from stream `first_index + i`.
            batch_size: Images times samples, or chains, in one forward pass; None for a default.
            progress: Called with the images done and their total; with `marginal` each counts once per class.

        Raises:
            ArgumentError: An argument does not fit the model or is out of range, or two bounds are chosen.
            ArgumentTypeError: `x` is no array or tensor of integers.
            NumericsError: An NLL is not finite.

        Source: arXiv:1509.00519 (importance weighting), arXiv:1611.04273 (annealing).
        """
        levels = levels_of(x, self.config)
        estimator = estimator_of(importance_samples, annealing, seed, batch_size, marginal=marginal)
        model, first = self.checkpoint.model, whole("first_index", first_index, 0, LARGEST_SEED)
        advance = counted(progress, len(levels) * estimator.passes(model))
        numbers = range(first, first + len(levels))
        classes = (
            None if marginal and labels is None else labels_of(model.config.classes, labels, len(levels))
        )
        with undisturbed():
            return estimator.nlls(model, levels, labels=classes, numbers=numbers, advance=advance)

    def elbo(self, x: Pixels, *, labels: Labels | None = None, seed: int = 0, first_index: int = 0) -> Pixels:
        """Return a lower bound of log p(x), with classes of log p(x|y), `(N,)`, float64, nats.

        It is minus `nll(x).nats`: log p(x) without latents, else the ELBO with one draw of the latents and KL
        divergences in closed form. Arguments and errors are those of `nll`.
        """
        return like(-self.nll(x, labels=labels, seed=seed, first_index=first_index).nats, x)

    def log_prob(self, x: Pixels, *, labels: Labels | None = None) -> Pixels:
        """Return log p(x), with classes log p(x|y), `(N,)`, float64, nats: exact, for models without latents.

        Args:
            x: Levels `(N, C, H, W)`.
            labels: Name or index in `config.classes`, for all images or for each; None without classes.

        Raises:
            ArgumentError: The model has latents; see `nll` for other errors.
        """
        if self.config.stochastic_layers:
            raise ArgumentError(
                f"a {self.config.preset} has latents: log p(x) is an integral that log_prob cannot compute",
                "elbo(x) is a lower bound; nll(x, importance_samples=100) gives a tighter one",
            )
        return like(-self.nll(x, labels=labels).nats, x)

    def reconstruct(
        self,
        x: Pixels,
        *,
        labels: Labels | None = None,
        keep_layers: int | None = None,
        samples: int | None = None,
        decoder_output: DecoderOutput = "sample",
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Pixels:
        """Return images decoded from the latents of `x`, levels `(N, C, H, W)`, uint8.

        Args:
            x: Levels `(N, C, H, W)`.
            labels: Name or index in `config.classes`, for all images or for each; None without classes.
            keep_layers: Number of layers, from the top, drawn from the posterior; None for all.
            samples: Reconstructions per image, for a result of `(N, samples, C, H, W)`; None for one.
            decoder_output: `sample` for drawn pixels, `mean` for expected levels, float32.
            seed: Seed of latents and pixels.
            progress: Called with the images done and `N`.

        Raises:
            ArgumentError: The model has no latents, or fewer layers than `keep_layers`; see `nll` for others.
            NumericsError: A reconstruction is not finite.
        """
        choice("decoder_output", decoder_output, OUTPUTS)
        levels, count = levels_of(x, self.config), 1 if samples is None else whole("samples", samples, 1)
        classes = labels_of(self.config.classes, labels, len(levels))
        kept = None if keep_layers is None else whole("keep_layers", keep_layers, 0)
        settings = Settings(whole("seed", seed, 0, LARGEST_SEED), kept, count, decoder_output)
        with undisturbed():
            advance = counted(progress, len(levels))
            found = reconstruct(self.checkpoint.model, levels, settings, advance, classes)
        found = found.astype(np.uint8 if decoder_output == "sample" else np.float32)
        return like(found[:, 0] if samples is None else found, x)

    def complete(
        self,
        x: Pixels,
        mask: Array | Tensor,
        *,
        labels: Labels | None = None,
        n: int | None = None,
        seed: int = 0,
        sweeps: int = SWEEPS,
        temperature: float = 1.0,
        progress: Progress | None = None,
    ) -> Pixels:
        """Return images with their unknown pixels drawn given the known ones, levels `(N, C, H, W)`, uint8.

        Completion `j` of image `i` has the seed `seed + i * n + j`. With latents, a Markov chain draws it.
        Without latents it is exact, but unknown pixels are drawn without regard to known ones after them.

        Args:
            x: Levels `(N, C, H, W)`; those of unknown pixels are ignored.
            mask: True where a pixel is known, `(H, W)`.
            labels: Name or index in `config.classes`, for all images or for each; None without classes.
            n: Completions per image, for a result of `(N, n, C, H, W)`; None for one.
            seed: Seed of the first completion.
            sweeps: Steps of the chain.
            temperature: Temperature of the pixel distributions, 0.01 to 100.
            progress: Called with the completions done and their total.

        Raises:
            ArgumentError: `mask` has another shape; see `nll` for other errors.
            ArgumentTypeError: `mask` is no array or tensor of booleans; see `nll` for other errors.
            NumericsError: The NLL of a completion is not finite.

        Source: the chain: arXiv:1401.4082, section 6.4 and appendix F.
        """
        known, count = mask_of(mask, self.config), 1 if n is None else whole("n", n, 1)
        levels = levels_of(x, self.config, known)
        first, total = whole("seed", seed, 0, LARGEST_SEED), count * len(levels)
        classes = labels_of(self.config.classes, labels, len(levels))
        classes = None if classes is None else classes.repeat(count)
        batches = complete_batches(
            self.checkpoint.model,
            levels.repeat(count, axis=0),
            known,
            range(first, first + total),
            classes,
            sweeps=whole("sweeps", sweeps, 0),
            temperature=number("temperature", temperature, 0.01, 100.0),
        )
        drawn = checked_draws(self.checkpoint.model, batches, range(first, first + total), classes)
        found = self._gathered(drawn, counted(progress, total))
        return like(found if n is None else found.reshape(len(levels), count, *found.shape[1:]), x)

    def compress(
        self, x: Array | Tensor, *, labels: Labels | None = None, progress: Progress | None = None
    ) -> bytes:
        """Compress images without loss, to the bytes of a file of `fame compress`; computed on the CPU.

        Args:
            x: Levels `(N, C, H, W)`.
            labels: Class of all images, or of each; the file stores it. None without classes.
            progress: Called with the images done and `N`.

        Raises:
            ArgumentError: `x` has another shape or other levels, or there is no such class.
            ArgumentTypeError: `x` is no array or tensor of integers.
            InputError: There are too many images for one file.
        """
        levels = levels_of(x, self.config)
        classes = labels_of(self.config.classes, labels, len(levels))
        with undisturbed():
            advance = counted(progress, len(levels))
            file = encode_images(self.checkpoint, levels, labels=classes, advance=advance)
            return to_bytes(file)

    def decompress(self, blob: bytes, *, progress: Progress | None = None) -> npt.NDArray[np.uint8]:
        """Return the levels of the images in `blob`, `(N, C, H, W)`, checked against their hash.

        Args:
            blob: Result of `compress`, or the bytes of a file of `fame compress`.
            progress: Called with the images done and `N`.

        Raises:
            ArgumentTypeError: `blob` is not bytes.
            InputError: `blob` is no such file.
            IntegrityError: `blob` is damaged, or was written with another model.
        """
        if not isinstance(blob, bytes | bytearray | memoryview):
            raise ArgumentTypeError(f"blob is of type {type(blob).__name__}, expected bytes")
        file = from_bytes(bytes(blob), "blob")
        check_model(self.checkpoint, file.header, "blob", "load that model, and call its decompress")
        with undisturbed():
            return decode_images(self.checkpoint, file, counted(progress, file.header.images))

    def verify(
        self,
        checks: Iterable[str] | None = None,
        *,
        seed: int = 0,
        samples: int | None = None,
        images: int | None = None,
        limit: int = 64,
    ) -> list[CheckResult]:
        """Check the model; return results with `name`, `verdict` and `finding`.

        The checks prove that its likelihood is valid, with images that it draws itself. `fame verify` also
        takes test images, and measures claims again. docs/verification.md says what each check means.

        Args:
            checks: `causality`, `batch`, `normalisation`, `latents`, `sampler`, `code`; None for all.
            seed: Seed of all random draws.
            samples: Number of images drawn for the sampler's check; None for 256, or 64 from mixtures.
            images: Minimum number of images of the other checks; None for what each needs.
            limit: Number of images to code, at most `samples`.

        Raises:
            ArgumentError: A check is unknown, or a number is out of range.
            InputError: The checks take more than 2,000 TFLOP.
            OutOfMemoryError: A check does not fit in memory.
        """
        most, names = whole("limit", limit, 1), OWN_CHECKS if checks is None else words_of("checks", checks)
        if unknown := [name for name in names if name not in OWN_CHECKS]:
            hint = did_you_mean(unknown[0], OWN_CHECKS, "checks")
            raise ArgumentError(f"unknown check {unknown[0]!r}", hint)
        drawn = None if samples is None else whole("samples", samples, 2)
        least = None if images is None else whole("images", images, 1)
        with undisturbed():
            subject = Subject(self.checkpoint.model, whole("seed", seed, 0, LARGEST_SEED), drawn, least)
            return verify(self.checkpoint, subject, names, limit=most)

    def grid(self, x: Array | Tensor, *, columns: int | None = None) -> "Image":
        """Return images side by side as one PIL image, which a notebook shows.

        Args:
            x: Levels `(N, C, H, W)`, or expected levels (floats).
            columns: Images in a row; None for a nearly square grid.

        Raises:
            ArgumentError: `columns` is below 1; see `nll` for other errors.
        """
        from PIL import Image

        shown, row = shown_of(x, self.config), None if columns is None else whole("columns", columns, 1)
        found = grid(levels_to_bytes(shown, self.config.levels), row)
        return Image.fromarray(found.squeeze(2) if found.shape[2] == 1 else found)
