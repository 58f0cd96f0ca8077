"""What `convjax.functional` refuses of adaptive and fractional pooling and of unpooling, and how it says so.

PyTorch agrees in test_bins_torch.py.
"""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_bad_input import ways
from test_functional import Call, array, ints, is_array, numbers

import convjax
from convjax import functional

LINE, PLANE, SPACE = array(2, 3, 6), array(2, 3, 6, 5), array(1, 2, 4, 5, 6)
WINDOWS = array(2, 3, 3, 4)
INDICES, SAMPLES = ints(WINDOWS), array(2, 3, 2)


def unpool(x: Any = WINDOWS, indices: Any = INDICES, kernel_size: Any = 2, **options: Any) -> Call:
    return "max_unpool2d", (x, indices, kernel_size), options


def fractional(
    x: Any = PLANE, kernel_size: Any = 2, output_size: Any = 3, samples: Any = SAMPLES, **options: Any
) -> Call:
    return "fractional_max_pool2d", (x, kernel_size, output_size), {"_random_samples": samples} | options


# name: call, error, message
REFUSED: dict[str, tuple[Call, type[Exception], str]] = {
    "unpool, one axis": (unpool(array(3), ints(array(3))), ValueError, "input .* must have 4 axes .*or 3 without N"),
    "unpool, shapes": (unpool(indices=ints(array(2, 3, 3, 3))), ValueError, "indices of shape .* the shape of input"),
    "unpool, indices a float": (unpool(indices=WINDOWS), TypeError, "indices are float32, but must be int32 or int64"),
    "unpool, small indices": (unpool(indices=ints(WINDOWS, "int16")), TypeError, "indices are int16, but must be"),
    "unpool, integers": (unpool(INDICES), TypeError, "input is int32, for which PyTorch has no max_unpool2d: cast"),
    "unpool, complex": (unpool(ints(WINDOWS, "complex64")), TypeError, "input is complex64"),
    "unpool, no channels": (unpool(array(2, 0, 3, 4), ints(array(2, 0, 3, 4))), ValueError, "has an empty axis"),
    "unpool, empty axis": (unpool(array(2, 3, 0, 4), ints(array(2, 3, 0, 4))), ValueError, "has an empty axis"),
    "unpool, a stride more": (unpool(output_size=(6, 10)), ValueError, "output_size 10 on spatial axis 1 .* 7 and 9"),
    "unpool, a stride less": (unpool(output_size=(4, 8)), ValueError, "output_size 4 on spatial axis 0 .* 5 and 7"),
    "unpool, sizes": (unpool(output_size=(3, 6, 8)), ValueError, "output_size has 3 entries for 2"),
    "unpool, an int": (unpool(output_size=6), TypeError, "output_size must be a sequence of 2 or 4 integers, got 6"),
    "unpool, kernel for three": (unpool(kernel_size=(2, 2, 2)), ValueError, "kernel_size has 3 entries for 2"),
    "unpool, padding a text": (unpool(padding="valid"), TypeError, "padding must hold integers"),
    "unpool, nothing left": (unpool(padding=5), ValueError, r"output_size would be \(-4, -2\) by default"),
    "unpool1d, plane": (("max_unpool1d", (PLANE, ints(PLANE), 2), {}), ValueError, "must have 3 axes for max_unpool1d"),
    "unpool3d, line": (("max_unpool3d", (LINE, ints(LINE), 2), {}), ValueError, "must have 5 axes for max_unpool3d"),
    "unpool3d, stride 0": (
        ("max_unpool3d", (SPACE, ints(SPACE), 2, 0), {}),
        ValueError,
        r"stride must be at least 1 .*\(0, 0, 0\)",
    ),
    "fractional, one axis": (fractional(array(6)), ValueError, "input .* must have 4 axes for fractional_max_pool2d"),
    "fractional, no size": (
        fractional(output_size=None),
        ValueError,
        "output_size or output_ratio must be given to fractional_max_pool2d",
    ),
    "fractional, sizes": (fractional(output_size=(3, 3, 3)), ValueError, "output_size has 3 entries for 2"),
    "fractional, ratios": (
        fractional(output_size=None, output_ratio=(0.5, 0.5, 0.5)),
        ValueError,
        "output_ratio has 3 entries for 2",
    ),
    "fractional, too many": (
        fractional(output_size=5),
        ValueError,
        "output_size 5 on spatial axis 1 must be at most 4",
    ),
    "fractional, kernel": (fractional(kernel_size=(6, 5)), ValueError, "output_size 3 on spatial axis 0 .* at most 1"),
    "fractional, kernel for three": (fractional(kernel_size=(2, 2, 2)), ValueError, "kernel_size has 3 entries"),
    "fractional, samples": (fractional(samples=array(2, 3, 3)), ValueError, r"_random_samples .* must be \(2, 3, 2\)"),
    "fractional, samples of a batch": (fractional(samples=array(1, 3, 2)), ValueError, r"must be \(2, 3, 2\)"),
    "fractional, samples of channels": (fractional(samples=array(2, 2, 2)), ValueError, r"must be \(2, 3, 2\)"),
    "fractional, samples of one axis": (fractional(samples=array(2)), ValueError, r"must be \(2, 3, 2\)"),
    "fractional, dtypes": (
        fractional(samples=array(2, 3, 2, dtype="float16")),
        TypeError,
        "input is float32 and _random_samples are float16",
    ),
    "fractional3d, too many": (
        ("fractional_max_pool3d", (SPACE, 2, 3), {"_random_samples": array(1, 2, 3)}),
        ValueError,
        "output_size 3 on spatial axis 0 must be at most 2, .* convjax.fractional_max_pool alone",
    ),
    "fractional, integers": (
        fractional(ints(PLANE), samples=ints(array(2, 3, 2))),
        TypeError,
        "input is int32, for which PyTorch has no fractional_max_pool2d",
    ),
    "fractional, no channels": (fractional(array(2, 0, 6, 5), samples=array(2, 0, 2)), ValueError, "only N may be 0"),
    "fractional, empty axis": (fractional(array(2, 3, 6, 0)), ValueError, "only N may be 0"),
} | {
    f"{name}, {what}": ((f"adaptive_{name}_pool{n}d", (x, size), {}), error, message)
    for name in ("avg", "max")
    for what, n, x, size, error, message in (
        ("negative", 2, PLANE, -1, ValueError, r"output_size must be at least 1 .*\(-1, -1\)"),
        ("one negative", 2, PLANE, (2, -1), ValueError, r"output_size must be at least 1 .*\(2, -1\)"),
        ("for three", 2, PLANE, (2, 2, 2), ValueError, "output_size has 3 entries for 2"),
        ("for none", 2, PLANE, (), ValueError, "output_size has 0 entries for 2"),
        ("a fraction", 2, PLANE, 2.5, TypeError, "output_size must hold integers"),
        ("nothing", 2, PLANE, None, TypeError, "output_size must hold integers"),
        ("None for a line", 1, LINE, (None,), TypeError, "output_size must hold integers"),
        ("two for a line", 1, LINE, (2, 2), ValueError, "output_size has 2 entries for 1"),
        ("for two in space", 3, SPACE, (2, 2), ValueError, "output_size has 2 entries for 3"),
        ("two axes", 2, array(6, 5), 2, ValueError, "input .* must have 4 axes .*or 3 without N"),
        ("five axes", 2, SPACE, 2, ValueError, "input .* must have 4 axes"),
        ("line of a plane", 1, PLANE, 2, ValueError, "input .* must have 3 axes"),
        ("no channels", 3, array(2, 0, 6, 5, 4), 2, ValueError, "only N may be 0"),
        ("empty axis", 2, array(2, 3, 0, 5), 2, ValueError, "only N may be 0"),
        ("integers", 2, ints(PLANE), 2, TypeError, f"input is int32, for which PyTorch has no adaptive_{name}_pool2d"),
        ("bools", 2, ints(PLANE, "bool"), 2, TypeError, "input is bool"),
        ("complex", 2, ints(PLANE, "complex64"), 2, TypeError, "input is complex64"),
    )
}


@pytest.mark.parametrize("way", ["eager", "jit"])
@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence_that_names_the_argument(name: str, way: str) -> None:
    (function, (x, *rest), options), error, message = REFUSED[name]
    first, *others = (made(a) for a in (x, *rest))
    named = {key: made(value) for key, value in options.items()}
    with pytest.raises(error, match=message) as caught:
        ways(lambda x: getattr(functional, function)(x, *others, **named))[way](first)
    text = str(caught.value).split("\n--------------------\n")[0].strip()
    assert "\n" not in text
    assert len(text) < 300


def made(argument: Any) -> Any:
    return jnp.asarray(numbers(argument), argument[1]) if is_array(argument) else argument


UNPOOL = ["input", "indices", "kernel_size", "stride=None", "padding=0", "output_size=None", "algorithm=None"]
FRACTIONAL = [
    "input", "kernel_size", "output_size=None", "output_ratio=None", "return_indices=False", "_random_samples=None",
    "key=None", "algorithm=None",
]  # fmt: skip
SIGNATURES = {
    **{f"max_unpool{n}d": UNPOOL for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": ["input", "output_size", "algorithm=None"] for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": ["input", "output_size", "return_indices=False", "algorithm=None"] for n in (1, 2, 3)},
    **{f"fractional_max_pool{n}d": FRACTIONAL for n in (2, 3)},
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_those_of_pytorch(name: str) -> None:
    parameters = inspect.signature(getattr(functional, name)).parameters.values()
    written = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    assert written == SIGNATURES[name]
    assert {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} == {"key", "algorithm"} & {
        p.name for p in parameters
    }
    assert ">>>" in (inspect.getdoc(getattr(functional, name)) or "")


def test_samples_are_given_or_drawn() -> None:
    x, key = made(PLANE), jax.random.key(0)
    with pytest.raises(ValueError, match="fractional_max_pool2d draws at random: pass key"):
        functional.fractional_max_pool2d(x, 2, 3)

    @jax.jit
    def pooled(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        samples = jax.random.uniform(key, (2, 3, 2))
        drawn = functional.fractional_max_pool2d(x, 2, 3, key=key)
        return drawn, functional.fractional_max_pool2d(x, 2, 3, _random_samples=samples)

    np.testing.assert_array_equal(*pooled(x, key))
    u = np.random.default_rng(0).uniform(size=(2, 3, 2))  # float64, which jax reads as float32
    want = functional.fractional_max_pool2d(x, 2, 3, _random_samples=jnp.asarray(u))
    np.testing.assert_array_equal(functional.fractional_max_pool2d(np.asarray(x, float), 2, 3, _random_samples=u), want)
    np.testing.assert_array_equal(functional.fractional_max_pool2d(x, 2, 3, _random_samples=u.tolist()), want)


def test_the_algorithm_asked_for_is_taken() -> None:
    with pytest.raises(ValueError, match="algorithm must be None, got 'shift': max_unpool2d is computed in one way"):
        functional.max_unpool2d(made(WINDOWS), made(INDICES), 2, algorithm="shift")
    for f in (
        lambda x: functional.adaptive_avg_pool2d(x, 4, algorithm="shift"),
        lambda x: functional.adaptive_max_pool2d(x, 4, algorithm="shift"),
        lambda x: functional.fractional_max_pool2d(x, 2, 3, key=jax.random.key(0), algorithm="shift"),
    ):
        assert {row.algorithm for row in convjax.explain(f, made(PLANE)).rows} == {"shift"}
