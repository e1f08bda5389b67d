"""The stack of bits, and binary decisions that are pushed on it or popped from it.

A stack coder (asymmetric numeral systems) can pop bits that were never pushed: they are then a sample of the
distribution that they are popped with. Latents are drawn that way, and pushing them again returns the bits.

Source: coder: arXiv:1311.2540, as constriction implements it.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from constriction import stream as constriction
from torch import Tensor

from famecli.errors import IntegrityError
from famecli.rng import stream

WORD_BITS = 32
STATE_WORDS = 2
# Probabilities of decisions are limited to this distance from 0 and 1. So a decision costs 16 bits at most,
# and a certain one 2.2e-5 bits: a corrupt file cannot claim endless images at no cost.
SMALLEST_CHANCE = 2.0**-16
# Probabilities are rounded to multiples of this, so that their last digits do not matter.
CHANCE_GRID = 2.0**-20
LARGEST_DECISION_BITS = 16
LEAST_DECISION_BITS = -math.log2(1.0 - SMALLEST_CHANCE)

START = np.array([0, 1], np.uint32)

# Encoder or decoder of binary decisions. Maps the probabilities of ones (float64, on the CPU, NaN counts as
# 1/2) and the bits to encode (same shape; None in a decoder) to the bits, int64.
Decide = Callable[[Tensor, Tensor | None], Tensor]
# Maps the lowest symbols of intervals and half their length to the probability of the upper half given the
# interval.
Split = Callable[[Tensor, int], Tensor]

# Accessed as attributes, since these submodules cannot be imported.
AnsCoder, Uniform = constriction.stack.AnsCoder, constriction.model.Uniform
BIT = constriction.model.Bernoulli(perfect=False)


class Stack:
    """Bits that symbols are pushed on and popped from, last in, first out.

    Random bits are added below the pushed ones as needed; the payload includes those that were popped.

    Args:
        words: Initial content, `(n,)`, uint32, the last word not 0; None for the start of an encoder.

    Raises:
        IntegrityError: The words are not a possible payload.
    """

    def __init__(self, words: np.ndarray | None = None) -> None:
        self.below = stream("coding", "initial bits")
        if words is None:
            words = START
        if len(words) < STATE_WORDS or not words[-1]:
            raise IntegrityError("the payload is damaged: it is not a final state of the coder")
        self.coder = AnsCoder(words)
        # Number of words before anything was pushed, and the smallest number since.
        self.initial, self.lowest = len(words), len(words)

    def deepen(self, decisions: int) -> None:
        """Put random words below the others until any `decisions` decisions can be popped."""
        words = -(-decisions * LARGEST_DECISION_BITS // WORD_BITS) + STATE_WORDS
        # Checked first, since the content is copied below.
        if self.coder.num_words() >= words:
            return
        there = self.coder.get_compressed()
        if (missing := words - len(there)) <= 0:
            return
        if np.array_equal(there, START):
            # The zeros of the initial state are not random.
            there, missing = there[:0], words
        random = self.below.integers(0, 2**WORD_BITS, missing, np.uint32)
        random[-1] |= 1
        before = self.coder.num_words()
        self.coder = AnsCoder(np.concatenate([random, there]))
        self.initial += self.coder.num_words() - before
        self.lowest += self.coder.num_words() - before

    @property
    def size_bits(self) -> int:
        """Number of bits on the stack, rounded to whole bits."""
        return int(self.coder.num_valid_bits())

    @property
    def spare_bits(self) -> int:
        """Number of bits that can be popped without using more of the initial bits."""
        return WORD_BITS * (int(self.coder.num_words()) - self.lowest)

    @property
    def initial_bits(self) -> int:
        """Number of random bits in `payload`, which the decoder recovers in the end."""
        popped = self.initial - self.lowest
        return WORD_BITS * (popped + STATE_WORDS) if popped else 0

    def payload(self) -> np.ndarray:
        """Return all words except unused random ones, `(n,)`, uint32."""
        words: np.ndarray = self.coder.get_compressed()[self.lowest - STATE_WORDS :]
        return words

    def push_bits(self, bits: np.ndarray, chances: np.ndarray) -> None:
        """Push bits, the last one first.

        Args:
            bits: 0 or 1, `(n,)`, int32.
            chances: Probability of a 1 for each bit, `(n,)`, float64.
        """
        self.coder.encode_reverse(bits, BIT, chances)

    def pop_bits(self, chances: np.ndarray) -> np.ndarray:
        """Return the bits, `(n,)`, int32, that were pushed with these probabilities.

        Raises:
            IntegrityError: The payload has no more bits.
        """
        return self._popped(self.coder.decode(BIT, chances))

    def push_uniform(self, symbols: np.ndarray, bits: int) -> None:
        """Push symbols of `bits` equally likely bits, `(n,)`, int32, the last one first."""
        self.coder.encode_reverse(symbols, Uniform(1 << bits))

    def pop_uniform(self, count: int, bits: int) -> np.ndarray:
        """Return `count` symbols that `push_uniform` pushed; errors are those of `pop_bits`."""
        return self._popped(self.coder.decode(Uniform(1 << bits), count))

    def read(self, chance: Tensor, wanted: Tensor | None) -> Tensor:
        """Pop decisions: a `Decide` that ignores `wanted`; errors are those of `pop_bits`."""
        return torch.from_numpy(self.pop_bits(_limited(chance))).view(chance.shape).long()

    def _popped(self, symbols: np.ndarray) -> np.ndarray:
        self.lowest = min(self.lowest, self.coder.num_words())
        if self.lowest < STATE_WORDS:
            raise IntegrityError("the payload ends before its images do")
        return symbols


class Writer:
    """A `Decide` that collects known decisions, since a stack needs the last one first."""

    def __init__(self) -> None:
        self.bits: list[np.ndarray] = []
        self.chances: list[np.ndarray] = []

    def __call__(self, chance: Tensor, wanted: Tensor | None) -> Tensor:
        assert wanted is not None
        self.chances.append(_limited(chance))
        self.bits.append(wanted.flatten().int().numpy())
        return wanted

    def flush(self, stack: Stack) -> None:
        """Push all decisions, so that `Stack.read` pops them in the order of the calls."""
        if self.bits:
            stack.push_bits(np.concatenate(self.bits), np.concatenate(self.chances))


def _limited(chance: Tensor) -> np.ndarray:
    rounded = torch.round(chance.nan_to_num(0.5) / CHANCE_GRID) * CHANCE_GRID
    limited: np.ndarray = rounded.clamp(SMALLEST_CHANCE, 1.0 - SMALLEST_CHANCE).flatten().numpy()
    return limited


def walk(shape: torch.Size, depth: int, split: Split, decide: Decide, known: Tensor | None = None) -> Tensor:
    """Return symbols 0 to `2**depth - 1`, int64, encoded or decoded by decisions down a binary tree.

    Args:
        shape: Shape of the symbols.
        depth: Number of decisions per symbol.
        split: Probability of the upper half of an interval of symbols.
        decide: Encoder or decoder of the decisions.
        known: Symbols to encode; None in a decoder.
    """
    lowest = torch.zeros(shape, dtype=torch.int64)
    for left in reversed(range(depth)):
        wanted = None if known is None else (known >> left) & 1
        lowest = lowest + (decide(split(lowest, 1 << left), wanted) << left)
    return lowest
