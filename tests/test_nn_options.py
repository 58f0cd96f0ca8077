"""Modules: the algorithm asked for, options as a jit key, refusals, and flax needed by nothing else."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convjax
from convjax.nn import Conv, ConvLocal, ConvTranspose, DeformConv, DepthwiseConv, SeparableConv

PLANE, LINE = (2, 7, 6, 4), (2, 9, 4)
MODULES: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "Conv": (lambda **o: Conv(4, 4, (3, 3), **o), PLANE),
    "ConvTranspose": (lambda **o: ConvTranspose(4, 4, (3, 3), **o), PLANE),
    "DepthwiseConv": (lambda **o: DepthwiseConv(4, (3, 3), **o), PLANE),
    "SeparableConv": (lambda **o: SeparableConv(4, 4, (3, 3), **o), PLANE),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("algorithm", ["shift", ["fft", "shift"], {"fprop": "shift", "wgrad": ["shift"]}], ids=str)
def test_the_algorithm_asked_for_computes(name: str, algorithm: Any) -> None:
    build, shape = MODULES[name]
    layer = build(algorithm=algorithm, padding=[[1, 1], [1, 1]], rngs=nnx.Rngs(0))
    taken = [row.algorithm for row in convjax.explain(lambda x: layer(x), jnp.ones(shape)).rows]
    assert str(taken[0]).startswith(algorithm[0] if isinstance(algorithm, list) else "shift")


def test_sizes_may_be_numbers_of_numpy() -> None:
    sizes: Any = (np.int64(3), np.array([3]), [3])
    kernels = [Conv(3, 4, size, rngs=nnx.Rngs(0)).kernel.shape for size in sizes]
    assert kernels == [(3, 3, 4)] * 3


def test_modules_built_alike_have_one_graph_definition() -> None:
    """Their options are a key of nnx.jit: equal and hashable, also those given as lists and mappings."""
    options: dict[str, Any] = {
        "algorithm": {"fprop": ["lax"]},
        "padding": [[1, 1], [1, 1]],
        "padding_mode": ["zeros", "reflect"],
    }
    for build in (MODULES["Conv"][0], MODULES["ConvTranspose"][0], MODULES["SeparableConv"][0]):
        one, other = (nnx.split(build(**options, rngs=nnx.Rngs(seed)))[0] for seed in (0, 1))
        assert one == other
        assert hash(one) == hash(other)
    traces = []

    @nnx.jit
    def apply(layer: Conv, x: jax.Array) -> jax.Array:
        traces.append(layer)
        return layer(x)

    for seed in (0, 1):
        apply(MODULES["Conv"][0](**options, rngs=nnx.Rngs(seed)), jnp.ones(PLANE))
    assert len(traces) == 1


def build(module: Any, *args: Any, **options: Any) -> Callable[[], Any]:
    return lambda: module(*args, **options, rngs=nnx.Rngs(0))


def call(shape: tuple[int, ...], module: Any, *args: Any, **options: Any) -> Callable[[], Any]:
    return lambda: module(*args, **options, rngs=nnx.Rngs(0))(jnp.ones(shape))


MANY_MODES: dict[str, Any] = {"padding": "CIRCULAR", "padding_mode": "reflect"}
REFUSALS: dict[str, tuple[Callable[[], Any], str]] = {
    "channels": (
        call((2, 8, 8, 3), Conv, 4, 6, (3, 3)),
        r"inputs of shape \(2, 8, 8, 3\) must be \(\*batch, \*spatial, 4\)",
    ),
    "channels first": (call((2, 3, 8), Conv, 4, 6, 3, layout="NCW"), r"\(2, 3, 8\) must be \(\*batch, 4, \*spatial\)"),
    "rank": (call((8, 4), ConvTranspose, 4, 6, (3, 3)), r"inputs of shape \(8, 4\) must be .* with 2 spatial axes"),
    "groups": (
        build(Conv, 4, 6, 3, feature_group_count=3),
        "feature_group_count=3 must .* divide in_features=4 and out",
    ),
    "transposed groups": (build(ConvTranspose, 4, 5, 3, feature_group_count=2), "=2 must .* and out_features=5"),
    "four axes": (build(Conv, 4, 6, (1,) * 4), r"kernel_size \(1, 1, 1, 1\) has 4 entries: .* 1 to 3 spatial axes"),
    "kernel": (build(Conv, 4, 6, (3, 0)), r"kernel_size must be at least 1.*\(3, 0\)"),
    "strides": (call(PLANE, Conv, 4, 6, (3, 3), strides=(1, 0)), r"strides must be at least 1.*\(1, 0\)"),
    "dilation": (call(PLANE, Conv, 4, 6, (3, 3), kernel_dilation=(1, 1, 2)), "kernel_dilation has 3 entries for 2"),
    "mask": (call(LINE, Conv, 4, 6, 3, mask=jnp.ones((3, 4, 5))), r"mask of shape \(3, 4, 5\) must have .*\(3, 4, 6\)"),
    "layout": (build(Conv, 4, 6, (3, 3), layout="NCW"), "layout must be .*NHWC, NCHW .*got 'NCW'"),
    "padding": (call(LINE, Conv, 4, 6, 3, padding="equal"), "padding must be one of SAME.*got 'equal'"),
    "padding mode": (build(Conv, 4, 6, 3, padding_mode="mirror"), "padding_mode must be .*'mirror'"),
    "two modes": (
        build(Conv, 4, 6, 3, **MANY_MODES),
        "padding 'CIRCULAR' is a mode of its own: leave padding_mode 'ref",
    ),
    "two transposed modes": (build(ConvTranspose, 4, 6, 3, **MANY_MODES), "'CIRCULAR' is a mode of its own"),
    "transposed reflection": (build(ConvTranspose, 4, 6, 3, padding="REFLECT"), "'REFLECT' has no one transpose"),
    "spread and copied": (
        call(LINE, Conv, 4, 6, 3, padding="REFLECT", input_dilation=2),
        r"padding_mode \('reflect',\) copies elements .* input_dilation \(2,\) .*convjax.pad",
    ),
    "empty output": (call((2, 2, 4), Conv, 4, 6, 3, padding="VALID"), "spatial axis 0 has 2 elements.*kernel's 3"),
    "algorithm": (build(Conv, 4, 6, 3, algorithm="cudnn"), "'cudnn' is not one of lax, shift"),
    "transposed algorithm": (build(ConvTranspose, 4, 6, 3, algorithm="cudnn"), "'cudnn' is not one of lax, shift"),
    "depthwise groups": (build(DepthwiseConv, 4, 3, feature_group_count=2), "leave feature_group_count out"),
    "multiplier": (build(DepthwiseConv, 4, 3, 0), "channel_multiplier must be at least 1, got 0"),
    "separable mask": (build(SeparableConv, 4, 6, 3, mask=jnp.ones(3)), "SeparableConv .* neither with a mask"),
    "local size": (call((2, 8, 4), ConvLocal, 4, 6, 3, input_size=7), r"spatial sizes \(8,\), not input_size \(7,\)"),
    "local axes": (build(ConvLocal, 4, 6, 3, input_size=(7, 7)), "input_size has 2 entries for 1 spatial axes"),
    "deform modes": (build(DeformConv, 4, 6, (3, 3), padding_mode="reflect"), "0 beyond: leave padding_mode out"),
    "deform axes": (build(DeformConv, 4, 6, 3), "kernel_size 3 must have 2 entries"),
    "deform circle": (call(PLANE, DeformConv, 4, 6, (3, 3), padding="CIRCULAR"), "padding must be .*'CIRCULAR'"),
    "offset groups": (build(DeformConv, 4, 6, (3, 3), offset_groups=3), "offset_groups=3 must .*in_features=4"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused_in_one_sentence(name: str) -> None:
    attempt, message = REFUSALS[name]
    with pytest.raises(ValueError, match=message) as caught:
        attempt()
    assert "\n" not in str(caught.value).split("\n--------------------\n")[0].strip()


def test_what_computes_is_said_by_algorithm_alone() -> None:
    with pytest.raises(TypeError, match="conv_general_dilated"):
        Conv(4, 6, 3, conv_general_dilated=jax.lax.conv_general_dilated, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    "program",
    [
        "import sys, convjax; assert not any(name.split('.')[0] == 'flax' for name in sys.modules)",
        "import sys; sys.modules['flax'] = None; import convjax\n"
        "try: import convjax.nn\n"
        "except ImportError as error: assert 'pip install flax' in str(error), error\n"
        "else: raise AssertionError('imported without flax')",
    ],
    ids=["not imported", "not installed"],
)
def test_flax_is_needed_by_the_modules_alone(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
