"""Faults that other libraries have had, each with the right answer: `cases.json`, with its sources.

Cases that state operands and results run by themselves, eagerly and in one program by every algorithm that applies;
the others have a test of their own, here or in the files beside, that begins with the case's number.
"""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, LAYOUTS, OPTIONS, Stated, batched, conv, numbers, padded, plane
from jax import lax
from transforms import applicable, assert_close, differentiated

import convjax
from convjax.algorithms.conv.im2col import Im2col
from convjax.problem import ConvSpec

STATED = [
    "AV-01", "AV-02", "AV-06", "AV-09", "AV-12", "CV-02", "CV-03", "CV-06", "GR-05", "JX-06", "MX-01", "MX-03",
    "MX-04", "MX-07", "MX-09", "PD-02", "PD-03", "PD-05", "SH-05", "SH-07", "SH-08",
]  # fmt: skip
PLAIN = ConvSpec.parse("conv float32[1,6,5,2] float32[3,3,2,2] b01f_01io->b01f")
CONV_ALGORITHMS = [None, *map(str, applicable(PLAIN))]
# Doubling is for large windows, and mask for gradients alone.
POOL_ALGORITHMS = [None, *(str(a) for a in convjax.algorithms("max") if a.name not in ("doubling", "mask"))]


def test_every_case_is_tested() -> None:
    sources = (path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_public_*.py"))
    names = (name for source in sources for name in re.findall(r"^def test_(\w+)", source, re.MULTILINE))
    own = {case.upper().replace("_", "-") for name in names for case in re.findall(r"(?:^|(?<=_))[a-z]{2}_\d\d", name)}
    assert own <= set(CASES)
    assert own | set(STATED) == set(CASES)


@pytest.mark.parametrize("name", STATED)
def test_stated_case(name: str) -> None:
    expected, stated = CASES[name]["expected"], Stated(name)
    (row,) = convjax.explain(stated, *stated.operands, platform="cpu").rows

    def run(algorithm: str | None, *operands: jax.Array) -> dict[str, Any]:
        results = {"value": stated(*operands, algorithm=algorithm)}
        if "indices" in expected:
            results["indices"] = stated(*operands, algorithm=algorithm, return_indices=True)[1]
        if any(key.startswith("grad") for key in expected):
            value, pullback = jax.vjp(lambda *x: stated(*x, algorithm=algorithm), *operands)
            grads = pullback(stated.cotangent(CASES[name]["args"].get("cotangent"), value))
            for operand, grad in zip("xw", grads, strict=False):
                results[f"grad_{operand}"] = results[f"grad_{operand}_of_sum"] = grad
        return results

    @jax.jit
    def by_each(*operands: jax.Array) -> dict[str, dict[str, Any]]:
        return {str(algorithm): run(algorithm, *operands) for algorithm in (None, *map(str, applicable(row.problem)))}

    for algorithm, results in {"eager": run(None, *stated.operands), **by_each(*stated.operands)}.items():
        for what, got in results.items():
            if what in expected:
                want = numbers(expected[what])
                shown = np.asarray(got, np.float32).reshape(want.shape)
                np.testing.assert_allclose(shown, want, atol=1e-5, rtol=1e-5, err_msg=f"{what} by {algorithm}")
        value = results["value"]
        assert value.dtype == expected.get("dtype", value.dtype)
        assert list(value.shape) == expected.get("shape", list(value.shape))
        assert list(value.shape[2:]) == expected.get("spatial", list(value.shape[2:]))
        assert set(value.shape[2:]) == {expected.get("length", value.shape[2])} or "length" not in expected


def test_av_08_both_conventions_of_same_average() -> None:
    case = CASES["AV-08"]
    x = batched(numbers(case["args"]["x"]), 2)
    for counted in (False, True):
        for algorithm in ("lax", "shift"):
            y = convjax.avg_pool(
                x, 2, strides=1, padding="SAME", count_include_pad=counted, layout="NCHW", algorithm=algorithm
            )
            np.testing.assert_allclose(y[0, 0], case["expected"][str(counted)])
    default = convjax.avg_pool(x, 2, strides=1, padding="SAME", layout="NCHW")
    np.testing.assert_allclose(default[0, 0], case["expected"]["True"])


def test_av_11_windows_of_padding_alone_are_refused() -> None:
    for pool in (convjax.avg_pool, convjax.max_pool):
        with pytest.raises(ValueError, match=r"padding \(3, 3\) .*half the dilated window, 1"):
            pool(jnp.ones((1, 1, 1, 1)), 3, padding=3)


def test_cv_02_causal_outputs_never_look_ahead() -> None:
    stated = Stated("CV-02")
    jacobian = jax.jacobian(lambda x: stated(x, stated.operands[1])[0, 0])(stated.operands[0])[:, 0, 0]
    np.testing.assert_array_equal(np.triu(jacobian, 1), 0)


@pytest.mark.parametrize("algorithm", CONV_ALGORITHMS)
def test_cv_05_a_single_channel_does_not_confuse_layouts(algorithm: str | None) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 1, 6, 5)), rng.standard_normal((3, 3, 1, 8))
    x, w = jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32)
    first = convjax.conv(x, w, padding=1, layout="NCHW", algorithm=algorithm)
    last = convjax.conv(jnp.moveaxis(x, 1, -1), w, padding=1, algorithm=algorithm)
    np.testing.assert_allclose(np.moveaxis(first, 1, -1), last, atol=1e-4)


def test_dt_01_the_bias_gradient_is_summed_in_float32() -> None:
    x, w, bias = jnp.ones((1, 1, 80, 80), "bfloat16"), jnp.ones((2, 1, 3, 3), "bfloat16"), jnp.zeros(2, "bfloat16")

    def loss(bias: jax.Array) -> jax.Array:
        return conv(x, w, bias=bias, strides=2, padding=1).sum()

    for gradient in (jax.grad(loss), jax.jit(jax.grad(loss))):
        assert gradient(bias).astype(jnp.float32).tolist() == CASES["DT-01"]["expected"]["grad_bias"]


@pytest.mark.parametrize("algorithm", CONV_ALGORITHMS)
def test_dt_02_weight_gradients_are_summed_over_the_batch_in_float32(algorithm: str | None) -> None:
    x, w = jnp.ones((512, 1, 1, 1), "bfloat16"), jnp.ones((1, 1, 1, 1), "bfloat16")
    wgrad = None if algorithm is None else {"wgrad": [algorithm, "lax"]}
    gradient = jax.jit(jax.grad(lambda w: conv(x, w, algorithm=wgrad).sum()))(w)
    assert gradient.astype(jnp.float32).item() == CASES["DT-02"]["expected"]["grad_w"][0]


@pytest.mark.parametrize("algorithm", [None, "lax", "shift(by=multiply)", "shift(by=dot)", "im2col", "vmap"])
def test_dt_03_small_integers_are_summed_in_int32(algorithm: str | None) -> None:
    args, expected = CASES["DT-03"]["args"], CASES["DT-03"]["expected"]
    x, w = (batched(numbers(args[name], "int8"), 1) for name in "xv")
    y = conv(x, w, preferred_element_type=jnp.int32, algorithm=algorithm)
    assert y.dtype == expected["dtype"]
    assert y.ravel().tolist() == expected["value"]
    with pytest.raises(TypeError, match="overflow int8"):
        conv(x, w, algorithm=algorithm)
    unsigned = jnp.full((1, 1, 4), 255, "uint8")
    y = conv(unsigned, unsigned, preferred_element_type=jnp.int32, algorithm=algorithm)
    assert y.ravel().tolist() == [4 * 255**2]


def test_dt_06_highest_precision_is_as_exact_as_direct_summation() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 16, 32, 32)), rng.standard_normal((16, 16, 3, 3))
    with jax.enable_x64(True):
        want = conv(jnp.asarray(x), jnp.asarray(w), algorithm="lax")
    got = conv(jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32), precision="highest")
    assert_close({"value": got}, {"value": want}, 1e-6)


def test_dt_07_patches_beyond_32_bit_indices_are_refused() -> None:
    large = ConvSpec.parse("conv float32[1,256,256,256,32] float32[3,3,3,32,8] b012f_012io->b012f pad=1_1x1_1x1_1")
    (reason,) = Im2col().unsupported(large, "cpu")
    assert reason.startswith(f"the patches have {256**3 * 27 * 32} elements, more than")
    assert Im2col().cost(large).workspace == 4 * 256**3 * 27 * 32


@pytest.mark.parametrize(
    ("name", "argument"), [("ER-01", "strides"), ("ER-02", "dilation"), ("ER-04", "padding"), ("ER-09", "bias")]
)
def test_er_01_er_02_er_04_er_09_name_the_argument(name: str, argument: str) -> None:
    args = CASES[name]["args"]
    options = {"strides" if k == "stride" else k: v for k, v in args.items() if k in ("stride", *OPTIONS)}
    if name == "ER-04":  # channels last there
        x, w = (jnp.moveaxis(batched(numbers(args[k]), 1), -1, 1) for k in "xw")
    else:
        x = jnp.ones(args["x_shape"])
        w = jnp.ones(args.get("w_shape", (1, 1, 3, 3)))
    if name == "ER-09":
        w, options["bias"] = jnp.ones((1, 1, 3, 3)), jnp.ones(args["bias_shape"])
    calls = (
        lambda x: conv(x, w, **options),
        jax.jit(lambda x: conv(x, w, **options)),
        lambda x: jax.vmap(lambda x: conv(x, w, **options))(x[None]),
    )
    for call in calls:
        with pytest.raises(ValueError, match=argument):
            call(x)


def test_er_01_er_02_er_04_are_refused_in_every_rank_and_in_pooling() -> None:
    for ndim in (1, 2, 3):
        x, w = jnp.ones((1, 1, *[3] * ndim)), jnp.ones((1, 1, *[3] * ndim))
        for option, value in (("strides", 0), ("dilation", 0), ("padding", -1)):
            with pytest.raises(ValueError, match=option):
                conv(x, w, **{option: value})
            with pytest.raises(ValueError, match=option):
                convjax.max_pool(x, 3, layout=LAYOUTS[ndim], **{option: value})


@pytest.mark.parametrize("algorithm", CONV_ALGORITHMS)
@pytest.mark.parametrize("name", ["GR-07", "GR-08"])
def test_gr_07_gr_08_empty_inputs_have_zero_weight_gradients(name: str, algorithm: str | None) -> None:
    args = CASES[name]["args"]
    x, w = jnp.ones(args["x_shape"]), jnp.ones(args["w_shape"])
    bias = jnp.ones(w.shape[0])
    options = {"padding": args["padding"]} if "padding" in args else {}
    y, pullback = jax.vjp(jax.jit(lambda x, w, bias: conv(x, w, bias=bias, algorithm=algorithm, **options)), x, w, bias)
    grad_x, grad_w, grad_bias = pullback(jnp.ones_like(y))
    assert y.shape == ((1, 1, 0) if name == "GR-07" else tuple(CASES[name]["expected"]["out_shape"]))
    assert grad_x.shape == x.shape
    np.testing.assert_array_equal(grad_w, np.zeros(w.shape))
    np.testing.assert_array_equal(grad_bias, np.zeros(bias.shape))


def test_gr_08_empty_batches_pool_to_empty_batches() -> None:
    x = jnp.ones((0, 8, 8, 3))
    for pool in (convjax.max_pool, convjax.min_pool, convjax.avg_pool, convjax.sum_pool):
        assert pool(x, 3, strides=2).shape == (0, 3, 3, 3)
        assert jax.grad(lambda x, pool=pool: pool(x, 2).sum())(x).shape == x.shape


@pytest.mark.parametrize("algorithm", [None, "lax", "shift(by=multiply)", "shift(by=dot)", "im2col", "vmap"])
def test_gr_09_complex_gradients_follow_jax(algorithm: str | None) -> None:
    case = CASES["GR-09"]
    x, w = (jnp.asarray(np.array(case["args"][k]).astype(np.complex64)) for k in "xw")
    gradient = jax.grad(lambda x, w: jnp.sum(jnp.abs(conv(x, w, algorithm=algorithm)) ** 2), (0, 1))
    for name, grad in zip("xw", gradient(x, w), strict=True):
        np.testing.assert_allclose(grad.item(), complex(case["expected"][f"jax_grad_{name}"]), rtol=1e-5)


@pytest.mark.parametrize("algorithm", ["lax", "shift"])
def test_jx_01_strided_sums_have_right_gradients_on_large_inputs(algorithm: str) -> None:
    x = jnp.ones((1, 64, 256, 1))
    c = jnp.asarray(np.random.default_rng(0).standard_normal((1, 32, 128, 1)), jnp.float32)

    def pool(x: jax.Array) -> jax.Array:
        return convjax.sum_pool(x, (2, 1), strides=(2, 2), algorithm=algorithm)

    want = np.zeros(x.shape, np.float32)
    want[:, ::2, ::2] = want[:, 1::2, ::2] = c
    np.testing.assert_array_equal(jax.jit(lambda x, c: jax.vjp(pool, x)[1](c)[0])(x, c), want)


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("algorithm", ["lax", "shift"])
def test_jx_02_a_crop_before_a_padded_window_stays_a_crop(algorithm: str, jitted: bool) -> None:
    x = jnp.asarray(CASES["JX-02"]["args"]["x"], jnp.int32)

    def crop(x: jax.Array) -> jax.Array:
        return lax.slice(x, (0, 1), (1, 2))

    def pooled(x: jax.Array) -> jax.Array:
        return convjax.sum_pool(
            crop(x)[None, ..., None], (1, 2), strides=1, padding=[(0, 0), (1, 0)], algorithm=algorithm
        )

    def convolved(x: jax.Array) -> jax.Array:
        return conv(crop(x)[None, None], jnp.ones((1, 1, 1, 2), x.dtype), padding=[(0, 0), (1, 0)], algorithm=algorithm)

    for f in (pooled, convolved):
        assert (jax.jit(f) if jitted else f)(x).ravel().tolist() == CASES["JX-02"]["expected"]["value"][0]


@pytest.mark.parametrize("algorithm", CONV_ALGORITHMS)
def test_jx_03_ranks_above_six_are_never_reached(algorithm: str | None) -> None:
    x, w = jnp.ones((1, 4, 5, 5, 5)), jnp.ones((2, 4, 3, 3, 3))
    np.testing.assert_allclose(jax.jit(lambda x, w: conv(x, w, algorithm=algorithm))(x, w), 108.0, rtol=1e-4)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("algorithm", ["lax", "shift(by=multiply)", "shift(by=dot)", "im2col", "fft", "vmap"])
def test_jx_04_many_rows_are_right_under_jit(algorithm: str) -> None:
    rows = jnp.zeros((16385, 3)).at[:, 0].set(jnp.arange(16385.0))

    def f(row: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(convjax.conv(row[None, None], jnp.eye(3)[None], algorithm=algorithm)))

    assert jax.jit(jax.vmap(f))(rows)[-1] == pytest.approx(CASES["JX-04"]["expected"]["last_value"], rel=1e-12)


@pytest.mark.parametrize("algorithm", [*POOL_ALGORITHMS, {"dgrad": "mask"}], ids=str)
def test_jx_05_max_pool_is_differentiated_in_every_mode(algorithm: Any) -> None:
    def pool(x: jax.Array) -> jax.Array:
        return convjax.max_pool(x, 2, layout="NCHW", algorithm=algorithm)

    x = jnp.asarray(np.random.default_rng(0).permutation(32).reshape(2, 1, 1, 4, 4), jnp.float32)
    c = jnp.asarray(np.random.default_rng(1).standard_normal((2, 1, 1, 2, 2)), jnp.float32)
    results = jax.jit(lambda c, x: differentiated(pool, c, x))(c, x)
    blocks = np.asarray(x).reshape(2, 1, 1, 2, 2, 2, 2)
    won = (blocks == blocks.max((4, 6), keepdims=True)).reshape(x.shape)

    def spread(y: Any) -> np.ndarray:
        return won * np.repeat(np.repeat(y, 2, axis=-2), 2, axis=-1)

    def gathered(x: Any) -> np.ndarray:
        return (won * x).reshape(blocks.shape).sum((4, 6))

    value, tangent = gathered(x), (won[0] * np.asarray(x[1])).reshape(blocks.shape[1:]).sum((3, 5))
    want = {
        "value": value[0],
        "grad": (spread(c)[0],),
        "jvp": tangent,
        "hvp": (won[0] * np.repeat(np.repeat(np.asarray(c[0]) * tangent, 2, axis=-2), 2, axis=-1),),
        "vmap": value,
        "vmap of grad": (spread(np.asarray(c) * value),),
    }
    assert_close(results, want, 1e-6)


@pytest.mark.parametrize("groups", CASES["JX-07"]["args"]["groups"])
@pytest.mark.parametrize("axes", CASES["JX-07"]["args"]["in_axes"])
def test_jx_07_vmap_equals_a_loop_and_so_does_its_gradient(axes: list[int | None], groups: int) -> None:
    rng = np.random.default_rng(0)
    in_axes = tuple(axes)
    shapes = (2, 4, 5), (4, 4 // groups, 3)
    operands = []
    for shape, axis in zip(shapes, in_axes, strict=True):
        full = shape if axis is None else (*shape[:axis], 4, *shape[axis:])
        operands.append(jnp.asarray(rng.standard_normal(full), jnp.float32))

    def f(x: jax.Array, w: jax.Array) -> jax.Array:
        return conv(x, w, groups=groups)

    def value_and_grads(x: jax.Array, w: jax.Array) -> Any:
        return f(x, w), jax.grad(lambda x, w: jnp.sum(jnp.square(f(x, w))), (0, 1))(x, w)

    got = jax.jit(jax.vmap(value_and_grads, in_axes))(*operands)
    members = [
        [x if axis is None else jnp.take(x, i, axis) for x, axis in zip(operands, in_axes, strict=True)]
        for i in range(4)
    ]
    loop = jax.jit(value_and_grads)
    want = jax.tree.map(lambda *each: np.stack(each), *[loop(*member) for member in members])
    assert_close({"all": got}, {"all": want}, 1e-4)


def test_mx_04_integer_dtypes_keep_their_identity() -> None:
    for dtype, low in (("int8", -128), ("uint8", 0), ("int32", -(2**31))):
        x = jnp.full((1, 2, 2, 1), low, dtype)
        for algorithm in ("lax", "shift", "reshape", "separable"):
            y = convjax.max_pool(x, 2, padding=1, algorithm=algorithm)
            assert y.dtype == dtype
            assert set(np.asarray(y).ravel().tolist()) == {low}


def test_mx_09_conservation_at_ties_by_every_algorithm() -> None:
    x = batched(numbers(CASES["MX-09"]["args"]["x"]), 2)
    for algorithm in ("lax", "shift", "separable"):
        gradient = jax.grad(lambda x, a=algorithm: convjax.max_pool(x, 2, layout="NCHW", algorithm=a).sum())(x)
        assert gradient.sum() == 1
        _, index = convjax.max_pool(x, 2, layout="NCHW", return_indices=True, algorithm=algorithm)
        assert gradient.ravel()[index.item()] == 1


@pytest.mark.parametrize("algorithm", POOL_ALGORITHMS)
def test_mx_11_indices_stand_in_the_unpadded_plane(algorithm: str | None) -> None:
    x = plane(301 * 201, 301, 201)
    y, indices = convjax.max_pool(x, 2, padding="SAME", layout="NCHW", return_indices=True, algorithm=algorithm)
    np.testing.assert_array_equal(x.ravel()[indices], y)
    assert indices.max() == 300 * 201 + 200


def test_mx_13_asking_for_indices_leaves_the_gradient_alone() -> None:
    def pool(x: jax.Array, **options: Any) -> Any:
        return convjax.max_pool(x, 3, strides=2, padding=1, layout="NCHW", **options)

    x = plane(16, 4, 4)
    with_indices = jax.grad(lambda x: pool(x, return_indices=True)[0].sum())(x)
    np.testing.assert_array_equal(with_indices, jax.grad(lambda x: pool(x).sum())(x))
    through_indices = jax.grad(lambda x: pool(x, return_indices=True)[1].astype(jnp.float32).sum())(x)
    np.testing.assert_array_equal(through_indices, jnp.zeros_like(x))


def test_pd_04_reflections_longer_than_the_input_continue_periodically() -> None:
    np.testing.assert_array_equal(padded([0, 1, 2], 3, 0, "reflect"), [1, 2, 1, 0, 1, 2])
    np.testing.assert_array_equal(padded([7], 1, 1, "reflect"), [7, 7, 7])
    x, w = jnp.ones((1, 3, 2, 2)), jnp.ones((1, 3, 1, 1))
    gradient = jax.grad(lambda x: conv(x, w, padding=5, padding_mode="reflect").sum())(x)
    assert gradient.sum() == 3 * 12 * 12


def test_pd_06_replicated_edges_collect_their_gradient() -> None:
    def total(x: jax.Array) -> jax.Array:
        return conv(x, jnp.ones((1, 1, 1)), padding=[(2, 1)], padding_mode="replicate")

    y, pullback = jax.vjp(total, batched(numbers([1, 2, 3]), 1))
    assert pullback(jnp.ones_like(y))[0].ravel().tolist() == [3, 1, 2]
    with pytest.raises(ValueError, match="shape"):
        pullback(jnp.ones((1, 0, 6)))


@pytest.mark.parametrize("mode", CASES["PD-07"]["args"]["padding_mode"])
def test_pd_07_same_pads_by_the_strided_amount_in_every_mode(mode: str) -> None:
    x, w = batched(np.arange(6, dtype=np.float32), 1), jnp.ones((1, 1, 3))
    same = conv(x, w, strides=2, padding="SAME", padding_mode=mode)
    assert same.shape == (1, 1, CASES["PD-07"]["expected"]["length"])
    (pads,) = [CASES["PD-07"]["expected"]["pad"]]
    np.testing.assert_array_equal(same, conv(x, w, strides=2, padding=[pads], padding_mode=mode))


@pytest.mark.parametrize("algorithm", ["lax", "shift"])
def test_sh_01_windows_wholly_outside_are_dropped(algorithm: str) -> None:
    x = plane(42, 6, 7)
    y = convjax.max_pool(x, 1, strides=2, ceil_mode=True, layout="NCHW", algorithm=algorithm)
    np.testing.assert_array_equal(y, x[:, :, ::2, ::2])


def test_sh_08_one_overhanging_window_is_legal_only_where_one_results() -> None:
    x = batched(numbers(CASES["SH-08"]["args"]["x"]), 1)
    for options in ({"strides": 3, "ceil_mode": False}, {"strides": 2, "ceil_mode": True}):
        with pytest.raises(ValueError, match="window"):
            convjax.avg_pool(x, 5, layout="NCW", **options)


@pytest.mark.parametrize("algorithm", ["lax", "shift"])
def test_sh_09_dilated_windows_never_have_negative_sizes(algorithm: str) -> None:
    x = jnp.ones((1, 1, 1))
    y = convjax.sum_pool(x, 3, strides=1, dilation=3, padding="SAME", layout="NCW", algorithm=algorithm)
    assert y.ravel().tolist() == CASES["SH-09"]["expected"]["SAME"]["value"]
    with pytest.raises(ValueError, match="dilated window's 7"):
        convjax.sum_pool(x, 3, strides=1, dilation=3, layout="NCW", algorithm=algorithm)


@pytest.mark.parametrize("algorithm", ["lax", "shift"])
def test_sh_10_same_pads_by_the_dilated_extent(algorithm: str) -> None:
    x = -1 - plane(35, 5, 7)
    options: dict[str, Any] = {"strides": 2, "dilation": 2, "layout": "NCHW", "algorithm": algorithm}
    same = convjax.max_pool(x, 3, padding="SAME", **options)
    assert list(same.shape) == CASES["SH-10"]["expected"]["shape"]
    np.testing.assert_array_equal(same, convjax.max_pool(x, 3, padding=[(2, 2), (2, 2)], **options))
    assert same.max() < 0


@pytest.mark.parametrize("algorithm", ["lax", "shift"])
def test_sh_11_padding_is_bounded_by_half_the_dilated_window(algorithm: str) -> None:
    expected = CASES["SH-11"]["expected"]
    line = jax.eval_shape(
        lambda x: convjax.max_pool(x, 3, strides=2, padding=2, dilation=10, layout="NCW", algorithm=algorithm),
        jax.ShapeDtypeStruct((1, 1, 1000), np.float32),
    )
    assert line.shape[2] == expected["lengths"][0]
    y = convjax.max_pool(plane(25, 5, 5), 3, strides=1, padding=2, dilation=2, layout="NCHW", algorithm=algorithm)
    np.testing.assert_array_equal(y[0, 0], expected["value_case2"])
