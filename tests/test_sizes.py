"""The calculators of sizes agree with the operations to the last row: sizes, what is left over, and refusals."""

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convjax
from convjax import sizes
from convjax.inspect.sizes import (
    conv_arguments_for,
    conv_output_size,
    conv_transpose_output_size,
    pool_output_size,
)

# One axis, as the arguments of a calculator.
Axis = dict[str, Any]
CALCULATORS: dict[str, Callable[..., Any]] = {
    "conv": conv_output_size,
    "conv_transpose": conv_transpose_output_size,
    "max_pool": lambda size, kernel, **options: pool_output_size(size, kernel, **options),
}


def random_axes(seed: int, low: int = 0, pooled: bool = False) -> Iterator[Axis]:
    """Without end; some are refused. `low` is the least padding; where `pooled` half the dilated kernel is the most."""
    rng = np.random.default_rng(seed)
    while True:
        n, k, s, d, *pair = rng.integers([1, 1, 1, 1, low, low], [30, 7, 6, 4, 7, 7]).tolist()
        most = (d * (k - 1) + 1) // 2 if pooled else 6
        yield {"size": n, "kernel": k, "stride": s, "dilation": d, "padding": tuple(min(p, most) for p in pair)}


def accepted(axes: Iterator[Axis], calculate: Callable[..., Any], count: int) -> tuple[list[Axis], list[int]]:
    """The first `count` that are not refused, and their output sizes."""
    found: list[Axis] = []
    output: list[int] = []
    while len(found) < count:
        axis = next(axes)
        try:
            output.append(calculate(**axis))
        except ValueError:
            continue
        found.append(axis)
    return found, output


def by_operation(name: str, axes: list[Axis], **options: Any) -> tuple[int, ...]:
    """What the operation itself makes of `axes`, all at once."""
    size, kernel, strides, dilation, padding = (
        tuple(axis[key] for axis in axes) for key in ("size", "kernel", "stride", "dilation", "padding")
    )
    options = {"strides": strides, "dilation": dilation, "padding": padding} | options
    x, w = (jax.ShapeDtypeStruct(shape, np.float32) for shape in ((1, *size, 1), (*kernel, 1, 1)))
    if name == "max_pool":
        return jax.eval_shape(lambda x: convjax.max_pool(x, kernel, **options), x).shape[1:-1]
    return jax.eval_shape(lambda x, w: getattr(convjax, name)(x, w, **options), x, w).shape[1:-1]


def batches(values: list[Any], count: int) -> Iterator[list[Any]]:
    return (values[i : i + count] for i in range(0, len(values), count))


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_thousands_of_poolings(ceil_mode: bool) -> None:
    calculate = CALCULATORS["max_pool"]
    axes, output = accepted(random_axes(0, pooled=True), lambda **axis: calculate(**axis, ceil_mode=ceil_mode), 2_500)
    got = [by_operation("max_pool", batch, ceil_mode=ceil_mode) for batch in batches(axes, 25)]
    assert list(itertools.chain(*got)) == output


def test_thousands_of_convolutions() -> None:
    axes, output = accepted(random_axes(1, low=-3), conv_output_size, 5_000)
    got = []
    for batch in batches(axes, 25):  # `conv` takes three axes at most, lax and the problems behind it any number
        rank = len(batch) + 2
        lhs_spec, rhs_spec = (0, rank - 1, *range(1, rank - 1)), (rank - 1, rank - 2, *range(rank - 2))
        problem = convjax.ConvSpec(
            lhs_shape=(1, *(axis["size"] for axis in batch), 1),
            rhs_shape=(*(axis["kernel"] for axis in batch), 1, 1),
            lhs_dtype="float32",
            rhs_dtype="float32",
            strides=tuple(axis["stride"] for axis in batch),
            padding=tuple(axis["padding"] for axis in batch),
            lhs_dilation=(1,) * len(batch),
            rhs_dilation=tuple(axis["dilation"] for axis in batch),
            dimension_numbers=(lhs_spec, rhs_spec, lhs_spec),
        )
        stock = jax.eval_shape(
            lambda x, w, problem=problem: jax.lax.conv_general_dilated(
                x,
                w,
                problem.strides,
                problem.padding,
                rhs_dilation=problem.rhs_dilation,
                dimension_numbers=jax.lax.ConvDimensionNumbers(*problem.dimension_numbers),
            ),
            jax.ShapeDtypeStruct(problem.lhs_shape, np.float32),
            jax.ShapeDtypeStruct(problem.rhs_shape, np.float32),
        )
        assert problem.output_shape == stock.shape
        got += problem.output
    assert got == output


@pytest.mark.parametrize("padding", ["SAME", "SAME_LOWER", "VALID", "FULL", "CAUSAL", 1, None])
@pytest.mark.parametrize("name", CALCULATORS)
def test_every_form_of_padding(name: str, padding: str | int | None) -> None:
    options = {} if padding is None else {"padding": padding}  # None: pairs
    axes, output = accepted(random_axes(2), lambda **axis: CALCULATORS[name](**axis | options), 24)
    got = [by_operation(name, batch, **options) for batch in batches(axes, 3)]
    assert list(itertools.chain(*got)) == output


@pytest.mark.parametrize("name", CALCULATORS)
def test_what_the_operation_refuses_is_refused_in_its_words(name: str) -> None:
    refusals = 0
    for axis in itertools.islice(random_axes(3, low=-4), 80):
        try:
            made = CALCULATORS[name](**axis)
        except ValueError as refusal:
            refusals += 1
            with pytest.raises(ValueError, match=f"^{re.escape(str(refusal))}"):
                by_operation(name, [axis])
        else:
            assert by_operation(name, [axis]) == (made,)
    assert 0 < refusals < 80


def test_output_padding_and_output_size() -> None:
    for n, k, s, d, extra in itertools.product((1, 4), (1, 3), (1, 2, 3), (1, 2), (0, 1, 2)):
        options = {"stride": s, "dilation": d, "output_padding": extra}
        if extra >= max(s, d):
            with pytest.raises(ValueError, match=f"output_padding {extra} must be at least 0 and below"):
                conv_transpose_output_size(n, k, **options)
            continue
        made = conv_transpose_output_size(n, k, **options, full_output=True)
        axis = {"size": n, "kernel": k, "stride": s, "dilation": d, "padding": 0}
        assert by_operation("conv_transpose", [axis], output_padding=extra) == (made.size,)
        assert made.remainder == extra
        if extra < s:  # otherwise the convolution from there has more elements
            assert conv_output_size(made.size, k, stride=s, dilation=d) == n
            assert conv_transpose_output_size(n, k, stride=s, dilation=d, output_size=made.size) == made.size


@pytest.mark.parametrize("calculate", [conv_output_size, pool_output_size])
def test_half_the_kernel_of_padding_keeps_the_size(calculate: Callable[..., int]) -> None:
    for n, p, d in itertools.product(range(1, 40), range(8), (1, 2, 3)):
        assert calculate(n, 2 * p + 1, stride=1, padding=p) == n
        if calculate is conv_output_size:
            assert calculate(n, 2 * p + 1, padding=p * d, dilation=d) == n


# size, kernel, stride, dilation, padding
LEFT_OVER = [(10, 3, 2, 1, (0, 0)), (10, 3, 4, 1, (0, 0)), (10, 3, 4, 1, (1, 2)), (12, 2, 5, 3, (2, 0)),
             (11, 3, 3, 2, (1, 1)), (9, 3, 3, 1, (0, -2)), (9, 4, 3, 1, (-1, 1)), (7, 1, 3, 1, (0, 1))]  # fmt: skip


def unseen(*gradients: jax.Array) -> list[int]:
    """How many elements at the end of each have no part in the output."""
    return [int(np.argmax(np.asarray(g)[::-1].ravel() != 0)) for g in gradients]


def test_remainder_is_what_can_be_changed_without_changing_the_output() -> None:
    def gradients(operation: Callable[..., jax.Array], n: int, pair: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
        """Of the sum of the outputs, with respect to the padded input and to the input itself."""
        padded = jax.grad(lambda x: operation(x, 0).sum())(jnp.ones((n + sum(pair), 1)))
        return padded, jax.grad(lambda x: operation(x, [pair]).sum())(jnp.ones((n, 1)))

    def conv_by(k: int, s: int, d: int) -> Callable[..., jax.Array]:
        w = jnp.ones((k, 1, 1))
        return lambda x, padding: convjax.conv(x, w, strides=s, dilation=d, padding=padding, algorithm="lax")

    def pool_by(k: int, s: int, d: int) -> Callable[..., jax.Array]:
        return lambda x, padding: convjax.sum_pool(x, k, strides=s, dilation=d, padding=padding, algorithm="lax")

    pools = [case for case in LEFT_OVER if 0 <= min(case[4]) and max(case[4]) <= (case[3] * (case[1] - 1) + 1) // 2]
    cases = [(conv_by, conv_output_size, case) for case in LEFT_OVER]
    cases += [(pool_by, pool_output_size, case) for case in pools]

    @jax.jit
    def all_gradients() -> list[tuple[jax.Array, jax.Array]]:
        return [gradients(by(k, s, d), n, pair) for by, _, (n, k, s, d, pair) in cases]

    for (_, calculate, (n, k, s, d, pair)), found in zip(cases, all_gradients(), strict=True):
        full = calculate(n, k, stride=s, dilation=d, padding=pair, full_output=True)
        in_padded, in_input = unseen(*found)
        assert in_padded == full.remainder
        assert in_input >= full.unused
        if full.unused:
            assert in_input == full.unused


def test_remainder_of_a_transposed_convolution_is_what_nothing_is_added_to() -> None:
    cases = [(4, 3, 2, 1, 0), (4, 3, 2, 1, 1), (3, 2, 4, 1, 3), (3, 2, 2, 3, 2)]

    @jax.jit
    def outputs() -> list[jax.Array]:
        return [
            convjax.conv_transpose(
                jnp.ones((n, 1)), jnp.ones((k, 1, 1)), strides=s, dilation=d, output_padding=extra, algorithm="lax"
            )
            for n, k, s, d, extra in cases
        ]

    for (n, k, s, d, extra), y in zip(cases, outputs(), strict=True):
        full = conv_transpose_output_size(n, k, stride=s, dilation=d, output_padding=extra, full_output=True)
        assert unseen(y) == [full.remainder] == [extra]
    same = conv_transpose_output_size(3, 2, stride=4, padding="SAME", full_output=True)
    assert (same.size, same.padding, same.remainder) == (12, (0, 0), 2)


def test_ceil_mode_reads_the_remainder_and_says_how_far_it_overhangs() -> None:
    for axis in itertools.islice(random_axes(4), 2_000):
        try:
            floor = conv_output_size(**axis, full_output=True)
            ceil = conv_output_size(**axis, ceil_mode=True, full_output=True)
        except ValueError:
            continue
        assert floor.overhang == 0
        assert ceil.remainder == 0 or ceil.overhang == 0
        if ceil.size > floor.size:
            assert (ceil.size, ceil.overhang) == (floor.size + 1, axis["stride"] - floor.remainder)
        elif ceil.size == floor.size:
            assert ceil == floor
        else:  # a window that starts behind the input and its low padding
            assert (floor.size - 1) * axis["stride"] >= axis["size"] + axis["padding"][0]
            assert ceil.size == floor.size - 1


def test_paddings_and_strides_are_inverses_of_windows() -> None:
    for n, count, e in itertools.product(range(1, 9), range(1, 6), range(1, 7)):
        made = {s: [p for p in range(80) if sizes.windows(n + p, e, s) == count] for s in range(1, 12)}
        assert all(list(sizes.paddings(n, count, e, s)) == sums for s, sums in made.items())
        for least, most in ((0, 0), (2, 2), (0, 2 * e - 2)):
            by_padding = [s for s, sums in made.items() if any(least <= p <= most for p in sums)]
            assert list(sizes.strides(n, count, e, least, most, longest=11)) == by_padding


def test_windows_that_hold_no_element_are_found() -> None:
    def some_tap_is_inside(n: int, start: int, k: int, d: int) -> bool:
        return any(0 <= start + t * d < n for t in range(k))

    for n, count, k, s, d, lo in itertools.product(range(5), range(4), (1, 2, 3), (1, 2, 5), (1, 2, 4), range(9)):
        want = all(some_tap_is_inside(n, i * s - lo, k, d) for i in range(count))
        assert sizes.all_hold_elements(n, count, k, s, d, lo) == want


def test_padding_may_stand_in_an_array_of_numpy() -> None:
    pair: Any = np.array([1, 2])
    assert conv_output_size(10, 3, padding=pair) == conv_output_size(10, 3, padding=(1, 2))
    assert pool_output_size(10, 5, padding=pair) == pool_output_size(10, 5, padding=(1, 2))
    assert conv_transpose_output_size(5, 3, padding=pair) == conv_transpose_output_size(5, 3, padding=(1, 2))
    assert conv_arguments_for(28, 29, padding=pair) == conv_arguments_for(28, 29, padding=(1, 2))


def test_no_more_is_unused_than_there_is() -> None:
    assert conv_output_size(2, 3, stride=20, padding=(10, 0), full_output=True).unused == 2
    assert conv_output_size(0, 5, padding=2, full_output=True).unused == 0
    assert conv_transpose_output_size(0, 3, stride=2, output_padding=1) == 0


def test_sizes_beyond_32_bits() -> None:
    assert pool_output_size(2**40, 3, stride=2, padding=1) == 2**39
    assert conv_output_size(2**40, 7, stride=2, padding=3, full_output=True).remainder == 1
    assert conv_transpose_output_size(2**40, 4, stride=2, padding=1) == 2**41
    signal = jax.ShapeDtypeStruct((1, 2**33, 1), np.float32)
    assert jax.eval_shape(lambda x: convjax.max_pool(x, 2), signal).shape == (1, 2**32, 1)


@pytest.mark.parametrize(("size", "output"), [(6, 6), (7, 4), (5, 1), (3, 5), (6, 2)])
def test_arguments_for_a_size_are_all_there_are(size: int, output: int) -> None:
    found = conv_arguments_for(size, output, dilation=None, limit=10_000)
    most = max(size, output)
    want = {
        (k, s, (p // 2, p - p // 2), d)
        for k, s, d in itertools.product(range(1, most + 1), repeat=3)
        for p in range(2 * d * (k - 1) + 1)
        if s <= d * (k - 1) + 1 <= most and (k > 1 or d == 1)
        if size + p > d * (k - 1) and (size + p - d * (k - 1) - 1) // s + 1 == output
    }
    assert {(a.kernel, a.stride, a.padding, a.dilation) for a in found} == want
    assert len(found) == len(want)
    for a in found:
        made = conv_output_size(
            size, a.kernel, stride=a.stride, padding=a.padding, dilation=a.dilation, full_output=True
        )
        assert (made.size, made.remainder) == (output, a.remainder)
        back = conv_transpose_output_size(
            output, a.kernel, stride=a.stride, padding=a.padding, dilation=a.dilation, output_padding=a.remainder
        )
        assert back == size
    order = [(not a.keeps_size, a.padding[0] != a.padding[1]) for a in found]
    assert order == sorted(order)
    assert any(a.keeps_size for a in found) == (size == output)
    assert conv_arguments_for(size, output, dilation=None, limit=3) == found[:3]


def test_arguments_can_be_pinned() -> None:
    def numbers(**pinned: Any) -> list[tuple[int, int, tuple[int, int], int]]:
        return [(a.kernel, a.stride, a.padding, a.dilation) for a in conv_arguments_for(**pinned)]

    assert numbers(size=224, output=112, kernel=7, stride=2) == [(7, 2, (3, 3), 1), (7, 2, (2, 3), 1)]
    assert numbers(size=28, output=28, kernel=4) == [(4, 1, (1, 2), 1)]
    assert numbers(size=112, output=56, kernel=3, padding="SAME") == [(3, 2, (0, 1), 1)]
    assert numbers(size=56, output=28, kernel=1, padding=0) == [(1, 2, (0, 0), 1)]
    assert numbers(size=100, output=100, kernel=3, stride=1, dilation=None, limit=3) == [
        (3, 1, (1, 1), 1), (3, 1, (2, 2), 2), (3, 1, (3, 3), 3),
    ]  # fmt: skip
    assert numbers(size=10, output=12, kernel=3, stride=1) == [(3, 1, (2, 2), 1)]
    assert numbers(size=10, output=13, kernel=3) == []
    assert numbers(size=8, output=3, padding=(1, 0), kernel=3, stride=3) == [(3, 3, (1, 0), 1)]
    assert numbers(size=8, output=8, padding="CAUSAL", limit=2) == [(1, 1, (0, 0), 1), (2, 1, (1, 0), 1)]
    assert numbers(size=5, output=5, kernel=7, dilation=None, limit=1) == [(7, 1, (3, 3), 1)]
    # Of millions, soon found.
    assert numbers(size=16_000, output=11_200, limit=1) == [(4801, 1, (0, 0), 1)]
    assert numbers(size=16_000, output=1, padding="SAME") == [(16_000, 16_000, (0, 0), 1)]
    assert numbers(size=16_000, output=15_999, padding="SAME") == []
    assert numbers(size=16_000, output=2, padding="CAUSAL", limit=1) == [(8000, 8000, (7999, 0), 1)]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: conv_output_size(10, 0), ValueError, "kernel must be at least 1 on every axis, got 0"),
        (lambda: conv_output_size(10, 3, stride=-1), ValueError, "stride must be at least 1 on every axis, got -1"),
        (lambda: conv_output_size(10, 3, dilation=0), ValueError, "dilation must be at least 1 on every axis, got 0"),
        (lambda: conv_output_size(-1, 3), ValueError, "size must be at least 0, got -1"),
        (lambda: conv_output_size(10, 1.5), TypeError, "kernel must hold integers, got .*1.5"),
        (lambda: conv_output_size(10, (3, 3)), ValueError, "kernel has 2 entries for 1 spatial axes"),
        (lambda: conv_output_size(10, 3, padding="same"), ValueError, "padding must be one of SAME, .* got 'same'"),
        (lambda: conv_output_size(10, 3, padding=(1, 2, 3)), ValueError, r"padding holds \(1, 2, 3\)"),
        (lambda: conv_output_size(2, 3), ValueError, "has 2 elements.*dilated kernel's 3.*pad by 1 or more in all"),
        (lambda: conv_output_size(2, 5, ceil_mode=True), ValueError, "has 2 elements.*dilated kernel's 5"),
        (lambda: pool_output_size(10, 0), ValueError, "window must be at least 1 on every axis, got 0"),
        (lambda: pool_output_size(10, 2, padding=2), ValueError, r"padding \(2, 2\) .* half the dilated window, 1"),
        (lambda: pool_output_size(2, 3), ValueError, "has 2 elements, 2 with padding, fewer than the dilated window's"),
        (lambda: pool_output_size(8, 2, padding="FULL", dilation=9), ValueError, "holds no element of x"),
        (lambda: conv_transpose_output_size(2, 3, padding=3), ValueError, r"padding \(3, 3\) leaves -2 elements"),
        (
            lambda: conv_transpose_output_size(3, 3, stride=2, output_size=9),
            ValueError,
            "output_size 9 .* must be 7 to 8",
        ),
        (lambda: conv_arguments_for(10, 0), ValueError, "output must be at least 1 on every axis, got 0"),
        (lambda: conv_arguments_for(10, 5, kernel=-1), ValueError, "kernel must be at least 1 on every axis, got -1"),
        (lambda: conv_arguments_for(10, 5, padding="half"), ValueError, "padding must be one of SAME"),
        (lambda: conv_arguments_for(10, 5, padding=-6), ValueError, r"padding \(-6, -6\) crops more than the 10"),
    ],
)
def test_bad_numbers_are_refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_kernel_longer_than_the_input_may_overhang_in_ceil_mode() -> None:
    assert pool_output_size(3, 5, stride=3, ceil_mode=True) == 1
    with pytest.raises(ValueError, match="output would be empty"):
        pool_output_size(3, 5, stride=2, ceil_mode=True)
    assert conv_output_size(3, 5, stride=3, ceil_mode=True, full_output=True).overhang == 2
    assert conv_output_size(0, 3) == 0
