"""The samplers, the operands, and that check_algorithm finds what is wrong and passes what is right."""

import collections
import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from transforms import lax_arguments

from convjax.algorithms.conv.lax_conv import Lax
from convjax.algorithms.protocol import Cost
from convjax.dtypes import dtype_of
from convjax.problem import ConvSpec, Problem, WindowSpec, parse
from convjax.target import target
from convjax.testing import (
    CONV_FAMILIES,
    WINDOW_FAMILIES,
    check_algorithm,
    random_operands,
    reference,
    sample_conv_problems,
    sample_window_problems,
)


@dataclasses.dataclass(frozen=True)
class Stock:
    """XLA's convolution, spoilt in the way that `fault` names."""

    fault: str = ""

    name: ClassVar[str] = "stock"
    version: ClassVar[int] = 1
    exact: ClassVar[bool] = True
    varies_on: ClassVar[tuple[str, ...]] = ()

    def unsupported(self, problem: ConvSpec, platform: str) -> tuple[str, ...]:
        return ("it has gone home",) if self.fault == "never applies" else ()

    def cost(self, problem: ConvSpec) -> Cost:
        return Cost(scalar=problem.macs)

    def error(self, problem: ConvSpec) -> float:
        return 1e-5

    def variants(self, problem: ConvSpec) -> tuple["Stock", ...]:
        return (self,)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        if self.fault == "raises":
            raise TypeError("no such luck")
        if self.fault == ("wrong when jitted" if isinstance(lhs, jax.core.Tracer) else "wrong when eager"):
            lhs = lhs + 1
        y = lax.conv_general_dilated(
            lhs,
            rhs,
            *lax_arguments(problem),
        )
        match self.fault:
            case "inexact":
                return y * (1 + 3e-7)
            case "half precision":
                return y.astype(jnp.bfloat16).astype(y.dtype)
            case "dtype":
                return y.astype(jnp.float16)
            case "shape":
                return y[None]
            case "offset":
                return y + 1e-7
            case "NaN":
                return y * jnp.nan
        return y


class Modest(Stock):
    """The same, promising less."""

    exact: ClassVar[bool] = False
    varies_on: ClassVar[tuple[str, ...]] = ()


PROBLEMS = sample_conv_problems(0, 6, families=("dense3", "depthwise", "grouped"))


def test_a_right_algorithm_passes_and_is_counted() -> None:
    assert check_algorithm(Stock(), PROBLEMS) == len(PROBLEMS)
    assert check_algorithm(Modest("inexact"), PROBLEMS) == len(PROBLEMS)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("wrong when jitted", "jitted on normal operands"),
        ("inexact", "eager on integers operands"),
        ("half precision", "the error promised is 1e-05"),
        ("dtype", "float16.* where float32.* is due"),
        ("shape", r"float32\[1, .* is due"),
        ("NaN", "values differ, by up to nan"),
    ],
)
def test_a_wrong_algorithm_is_found_out(fault: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message) as caught:
        check_algorithm(Stock(fault), PROBLEMS)
    assert str(PROBLEMS[0]) in str(caught.value)
    assert "is wrong on 6 of 6 problems" in str(caught.value)
    assert "and 1 more" in str(caught.value)


def test_without_eager_only_the_jitted_results_count() -> None:
    assert check_algorithm(Stock("wrong when eager"), PROBLEMS, eager=False) == 6
    with pytest.raises(AssertionError, match="eager on normal operands"):
        check_algorithm(Stock("wrong when eager"), PROBLEMS)


def test_an_algorithm_that_raises_is_named_with_its_problem() -> None:
    with pytest.raises(TypeError, match="no such luck") as caught:
        check_algorithm(Stock("raises"), PROBLEMS)
    assert any(str(PROBLEMS[0]) in note for note in caught.value.__notes__)


def test_an_algorithm_that_never_applies_is_not_passed() -> None:
    with pytest.raises(ValueError, match=r"applies to none of the 6 problems on cpu.*it has gone home"):
        check_algorithm(Stock("never applies"), PROBLEMS)
    with pytest.raises(ValueError, match="none of the 0 problems"):
        check_algorithm(Stock(), [])


def test_zeros_throughout_are_measured_against_a_product() -> None:
    problem = ConvSpec.parse("conv float32[1,3,1] float32[1,1,1] b0f_0io->b0f stride=2 lhs_dilate=2 pad=-1_1")
    assert not np.any(reference(problem, *random_operands(problem, 0)))
    assert check_algorithm(Modest("offset"), [problem]) == 1
    with pytest.raises(AssertionError, match="eager on integers operands"):
        check_algorithm(Stock("offset"), [problem])


def test_float64_problems_run_in_float64() -> None:
    assert check_algorithm(Stock(), sample_conv_problems(0, 2, dtypes=("float64",))) == 2


def test_what_is_checked_is_traced_for_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for jax's default backend, whose forms may be wrong there."""
    platforms = set()

    class Watched(Stock):
        def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
            platforms.add(target().platform)
            return super().__call__(problem, lhs, rhs)

    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    check_algorithm(Watched(), PROBLEMS[:1], "cpu")
    assert platforms == {"cpu"}


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Maxima of windows of two: by XLA, or by a comparison that loses NaN."""

    loses_nan: bool = False

    name: ClassVar[str] = "pairs"
    version: ClassVar[int] = 1
    exact: ClassVar[bool] = True
    varies_on: ClassVar[tuple[str, ...]] = ()

    def unsupported(self, problem: WindowSpec, platform: str) -> tuple[str, ...]:
        plain = problem == WindowSpec.parse(f"max {problem.dtype}[{problem.shape[0]}] window=2")
        return () if plain else ("not plain windows of two on one axis",)

    def cost(self, problem: WindowSpec) -> Cost:
        return Cost(vector=problem.macs)

    def error(self, problem: WindowSpec) -> float:
        return 0.0

    def variants(self, problem: WindowSpec) -> tuple["Pairs", ...]:
        return (self,)

    def __call__(self, problem: WindowSpec, x: jax.Array) -> jax.Array:
        a, b = x[:-1], x[1:]
        return jnp.where(a > b, a, b) if self.loses_nan else lax.max(a, b)


def test_windows_are_checked_with_nan_and_infinities() -> None:
    problems = [WindowSpec.parse("max float32[200] window=2"), WindowSpec.parse("sum float32[200] window=2")]
    assert check_algorithm(Pairs(), problems) == 1
    with pytest.raises(AssertionError, match="on special operands"):
        check_algorithm(Pairs(loses_nan=True), problems)


def test_samples_are_reproducible_and_a_longer_sample_begins_with_a_shorter() -> None:
    assert sample_conv_problems(5, 40)[:20] == sample_conv_problems(5, 20)
    assert sample_window_problems(5, 40)[:20] == sample_window_problems(5, 20)
    assert sample_conv_problems(5, 40) != sample_conv_problems(6, 40)


def test_sampled_problems_are_distinct_small_and_parse_back() -> None:
    problems: list[Problem] = [*sample_conv_problems(0, 320), *sample_window_problems(0, 273)]
    assert len(set(problems)) > 0.98 * len(problems)
    assert all(parse(str(p)) == p for p in problems)
    assert max(p.macs for p in problems) < 2_000_000


def test_the_convolutions_sampled_cover_what_a_convolution_can_have() -> None:
    problems = sample_conv_problems(0, 320)
    axes = [(p, *axis) for p in problems for axis in zip(p.kernel, p.input, p.output, p.padding, strict=True)]
    counts = {
        "rank 0": sum(p.ndim == 0 for p in problems),
        "rank 1": sum(p.ndim == 1 for p in problems),
        "rank 3": sum(p.ndim == 3 for p in problems),
        "stride": sum(any(s > 1 for s in p.strides) for p in problems),
        "lhs dilation": sum(any(d > 1 for d in p.lhs_dilation) for p in problems),
        "rhs dilation": sum(any(d > 1 for d in p.rhs_dilation) for p in problems),
        "feature groups": sum(p.feature_groups > 1 for p in problems),
        "batch groups": sum(p.batch_groups > 1 for p in problems),
        "depthwise": sum(p.feature_groups > 1 and p.C == 1 for p in problems),
        "3x3 stride 1": sum(set(p.kernel) == {3} and set(p.strides) == {1} for p in problems),
        "1x1": sum(p.ndim > 0 and p.taps == 1 for p in problems),
        "kernel above output": sum(k > o for _, k, _, o, _ in axes),
        "negative padding": sum(lo < 0 or hi < 0 for *_, (lo, hi) in axes),
        "uneven": sum(len(set(p.input)) > 1 for p in problems),
        "empty": sum(p.empty for p in problems),
        "size 1": sum(n == 1 for _, _, n, _, _ in axes),
        "channels first": sum(p.dimension_numbers[0] == tuple(range(p.ndim + 2)) for p in problems),
        "odd order": sum(p.dimension_numbers[0][0] != 0 for p in problems),
    }
    assert min(counts.values()) >= 5, counts


def test_every_window_family_meets_every_operation() -> None:
    problems = sample_window_problems(0, len(WINDOW_FAMILIES) * len(WindowSpec.OPERATIONS))
    assert collections.Counter(p.operation for p in problems) == dict.fromkeys(
        WindowSpec.OPERATIONS, len(WINDOW_FAMILIES)
    )
    assert any(d > 1 for p in problems for d in p.base_dilation)
    assert any(d > 1 for p in problems for d in p.window_dilation)
    assert any(lo < 0 for p in problems for lo, _ in p.padding)
    assert any(p.empty for p in problems)


@pytest.mark.parametrize("family", CONV_FAMILIES)
def test_a_family_can_be_asked_for(family: str) -> None:
    assert len(sample_conv_problems(1, 3, families=(family,), dtypes=("bfloat16",))) == 3


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match=r"families must be some of dense3, pointwise, .*, got 'dens3'"):
        sample_conv_problems(0, 1, families=("dens3",))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "complex64"])
def test_integers_are_exact_in_the_output_dtype_in_any_order(dtype: str) -> None:
    problems: list[Problem] = [
        *sample_conv_problems(2, 32, dtypes=(dtype,)),
        ConvSpec.parse(f"conv {dtype}[2,9,9,64] {dtype}[9,9,64,4] b01f_01io->b01f pad=4_4x4_4"),
    ]
    for problem in problems:
        operands = random_operands(problem, 0, "integers")
        assert [a.dtype for a in operands] == [dtype_of(dtype)] * 2
        largest = np.max(reference(problem, *(np.abs(a) for a in operands)), initial=0)
        limit = 127 if dtype == "int8" else 2 ** (jnp.finfo(dtype).nmant + 1)
        assert abs(largest) <= limit, problem
        assert problem.empty or problem.macs < 10 or all(np.any(a != 0) for a in operands), problem


def test_special_operands_have_ties_nan_and_infinities() -> None:
    problem = WindowSpec.parse("min bfloat16[4,30,30,2] window=1x2x2x1")
    x = random_operands(problem, 0, "special")[0].astype(np.float32)
    assert np.isnan(x).any()
    assert np.isinf(x).any()
    assert len(np.unique(x[np.isfinite(x)])) == 3
    values = reference(problem, x)
    assert np.any(values == math.inf)
    with pytest.raises(ValueError, match="'normal' or 'integers'"):
        random_operands(ConvSpec.parse("conv float32[1,3,1] float32[1,1,1] b0f_0io->b0f"), 0, "special")


def test_complex_sums_are_as_wide_as_asked() -> None:
    """XLA adds in the operands' precision whatever is asked for."""
    problem = ConvSpec.parse("conv complex64[2,9,9,8] complex64[3,3,8,4] b01f_01io->b01f out=complex128")
    assert check_algorithm(Lax(), [problem]) == 1
