"""What to do next where the steps of a training cannot be taken."""

from collections.abc import Iterator
from contextlib import contextmanager

from famecli.errors import UnavailableError, brief
from famecli.training.memory import explain_out_of_memory
from famecli.training.trainer import Trainer

# Where torch defines what its compiler raises; it names none of it in public.
COMPILER = ("torch._dynamo", "torch._inductor")


@contextmanager
def explain_failed_steps(trainer: Trainer) -> Iterator[None]:
    """Say what would fit where a step runs out of memory, and what lacks where it cannot be compiled.

    Raises:
        OutOfMemoryError: A step does not fit.
        UnavailableError: A step cannot be compiled here, for example for want of a C++ compiler.
    """
    try:
        with explain_out_of_memory(trainer):
            yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(COMPILER):
            raise
        said = brief(str(error).partition("\n")[0])
        raise UnavailableError(
            f"a step cannot be compiled: {said}",
            "install a C++ compiler, or leave out --compile: the result differs in rounding alone",
        ) from error
