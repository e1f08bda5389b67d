"""The stack of bits that images are pushed on, and binary decisions that go to it or come from it.

A stack coder (asymmetric numeral systems) can pop what was never pushed: bits then come out as a sample of
the distribution that they are popped with. Latents are drawn that way, and pushing them again gives the bits
back.

Source: coder: arXiv:1311.2540, as constriction implements it.
"""

import math
from typing import Protocol

import numpy as np
import torch
from constriction import stream as constriction
from torch import Tensor

from famecli.errors import IntegrityError
from famecli.rng import stream

WORD_BITS = 32
STATE_WORDS = 2
# No decision is more certain. So a decision costs 16 bits at most, a corrupt file cannot claim endless images
# in no bits, and a certain one costs 2.2e-5 bits.
SMALLEST_CHANCE = 2.0**-16
# Chances are rounded to multiples of this, so that the last digits do not matter.
CHANCE_GRID = 2.0**-20
LARGEST_DECISION_BITS = 16
LEAST_DECISION_BITS = -math.log2(1.0 - SMALLEST_CHANCE)

START = np.array([0, 1], np.uint32)

# These are no modules that names could be imported from.
AnsCoder, Uniform = constriction.stack.AnsCoder, constriction.model.Uniform
BIT = constriction.model.Bernoulli(perfect=False)


class Stack:
    """Bits that symbols are pushed on and popped from, last in, first out.

    Below what was pushed lie random bits, as many as are popped: the payload holds those that were touched.

    Args:
        words: What lies there, `(n,)`, uint32, the last one not 0; None for a start of an encoder.

    Raises:
        IntegrityError: These are no words that a stack left.
    """

    def __init__(self, words: np.ndarray | None = None) -> None:
        self.below = stream("coding", "initial bits")
        if words is None:
            words = START
        if len(words) < STATE_WORDS or not words[-1]:
            raise IntegrityError("the payload is damaged: it is not what a coder leaves")
        self.coder = AnsCoder(words)
        # In words: what lay there before anything was pushed, and the least that ever did since.
        self.initial, self.lowest = len(words), len(words)

    def deepen(self, decisions: int) -> None:
        """Put random words below the others, until so many decisions can be popped whatever they are."""
        words = -(-decisions * LARGEST_DECISION_BITS // WORD_BITS) + STATE_WORDS
        # Asked first, since what is there is copied.
        if self.coder.num_words() >= words:
            return
        there = self.coder.get_compressed()
        if (missing := words - len(there)) <= 0:
            return
        if np.array_equal(there, START):
            # Popped, its zeros would be no random bits.
            there, missing = there[:0], words
        random = self.below.integers(0, 2**WORD_BITS, missing, np.uint32)
        random[-1] |= 1
        before = self.coder.num_words()
        self.coder = AnsCoder(np.concatenate([random, there]))
        self.initial += self.coder.num_words() - before
        self.lowest += self.coder.num_words() - before

    @property
    def size_bits(self) -> int:
        """Bits there, to less than one."""
        return int(self.coder.num_valid_bits())

    @property
    def spare_bits(self) -> int:
        """What can be popped without touching more of the initial bits."""
        return WORD_BITS * (int(self.coder.num_words()) - self.lowest)

    @property
    def initial_bits(self) -> int:
        """Random bits in `payload`, which a decoder has again when it is done."""
        popped = self.initial - self.lowest
        return WORD_BITS * (popped + STATE_WORDS) if popped else 0

    def payload(self) -> np.ndarray:
        """Return all words but those that were never touched, `(n,)`, uint32."""
        words: np.ndarray = self.coder.get_compressed()[self.lowest - STATE_WORDS :]
        return words

    def push_bits(self, bits: np.ndarray, chances: np.ndarray) -> None:
        """Push bits, the last one first.

        Args:
            bits: 0 or 1, `(n,)`, int32.
            chances: Of a 1, `(n,)`, float64.
        """
        self.coder.encode_reverse(bits, BIT, chances)

    def pop_bits(self, chances: np.ndarray) -> np.ndarray:
        """Return the bits, `(n,)`, int32, that were pushed with these chances.

        Raises:
            IntegrityError: There are no more.
        """
        return self._popped(self.coder.decode(BIT, chances))

    def push_uniform(self, symbols: np.ndarray, bits: int) -> None:
        """Push symbols of `bits` equally likely bits, `(n,)`, int32, the last one first."""
        self.coder.encode_reverse(symbols, Uniform(1 << bits))

    def pop_uniform(self, count: int, bits: int) -> np.ndarray:
        """Return `count` such symbols; errors are those of `pop_bits`."""
        return self._popped(self.coder.decode(Uniform(1 << bits), count))

    def _popped(self, symbols: np.ndarray) -> np.ndarray:
        self.lowest = min(self.lowest, self.coder.num_words())
        if self.lowest < STATE_WORDS:
            raise IntegrityError("the payload ends before its images do")
        return symbols


class Decide(Protocol):
    """Where binary decisions go to or come from."""

    def __call__(self, chance: Tensor, wanted: Tensor | None) -> Tensor:
        """Return bits, int64, that have the chances of a 1 that are given.

        Args:
            chance: Float64, on the CPU; what is not a number stands for a half.
            wanted: What the bits are, of the same shape, where that is known.
        """
        ...


class Reader:
    """Pops decisions from a stack.

    Args:
        stack: Where from.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def __call__(self, chance: Tensor, wanted: Tensor | None) -> Tensor:
        bits = self.stack.pop_bits(_limited(chance))
        return torch.from_numpy(bits).view(chance.shape).long()


class Writer:
    """Keeps decisions until all are known, since a stack takes the last one first."""

    def __init__(self) -> None:
        self.bits: list[np.ndarray] = []
        self.chances: list[np.ndarray] = []

    def __call__(self, chance: Tensor, wanted: Tensor | None) -> Tensor:
        assert wanted is not None
        self.chances.append(_limited(chance))
        self.bits.append(wanted.flatten().int().numpy())
        return wanted

    def flush(self, stack: Stack) -> None:
        """Push all, so that a reader pops them in the order in which they came."""
        if self.bits:
            stack.push_bits(np.concatenate(self.bits), np.concatenate(self.chances))


def _limited(chance: Tensor) -> np.ndarray:
    rounded = torch.round(chance.nan_to_num(0.5) / CHANCE_GRID) * CHANCE_GRID
    limited: np.ndarray = rounded.clamp(SMALLEST_CHANCE, 1.0 - SMALLEST_CHANCE).flatten().numpy()
    return limited


def walk(
    shape: torch.Size, depth: int, split: "Split", decide: Decide, known: Tensor | None = None
) -> Tensor:
    """Return symbols 0 to `2**depth - 1`, int64, as one decision after another down a binary tree.

    Args:
        shape: Of the symbols.
        depth: Decisions for each.
        split: The chance of the upper half of an interval of symbols, given the interval.
        decide: Where decisions go to or come from.
        known: The symbols, if they are.
    """
    lowest = torch.zeros(shape, dtype=torch.int64)
    for left in reversed(range(depth)):
        wanted = None if known is None else (known >> left) & 1
        lowest = lowest + (decide(split(lowest, 1 << left), wanted) << left)
    return lowest


class Split(Protocol):
    """How likely the upper half of an interval of symbols is."""

    def __call__(self, lowest: Tensor, half: int) -> Tensor:
        """Return the chance that a symbol of `lowest` to `lowest + 2 * half - 1` is in the upper half."""
        ...
