"""What a program is compiled for: a form that suits one platform's compiler may be slow under another's."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

import jax

from convjax.platforms import GPUS, default_platform


@dataclasses.dataclass(frozen=True)
class Target:
    """A platform, and what becomes of the program there.

    Attributes:
        divided: whether XLA divides it among several of the platform's devices.
        portable: whether it is to run elsewhere too: exported, kept in jax's compilation cache, or asked to be so.
    """

    platform: str
    divided: bool = False
    portable: bool = False

    @property
    def is_cpu(self) -> bool:
        return self.platform == "cpu"

    @property
    def runs_here_alone(self) -> bool:
        """Whether it may call a library by name: such calls can neither be divided among devices nor saved."""
        return self.is_cpu and not self.divided and not self.portable

    @property
    def is_gpu(self) -> bool:
        return self.platform in GPUS


# Jit's cache does not see it: lowerings set it around functions that are told apart by it, `check_algorithm` around
# functions that are new each time, and no algorithm jits a part of itself.
_target: contextvars.ContextVar[Target | None] = contextvars.ContextVar("target", default=None)


@contextlib.contextmanager
def compiling_for(target: Target) -> Iterator[None]:
    """Says what the algorithms called inside are traced for."""
    token = _target.set(target)
    try:
        yield
    finally:
        _target.reset(token)


def target() -> Target:
    """What is being compiled for: outside of lowerings one device of the default backend."""
    return _target.get() or Target(default_platform())


def may_be_divided() -> bool:
    """Whether what is traced is divided among devices, or outside of lowerings may come to be.

    What XLA divides wrongly is then written in a form that it divides rightly.
    """
    known = _target.get()
    return jax.device_count() > 1 if known is None else known.divided
