"""Which algorithm runs: chosen, asked for or forbidden, and that what is said is what is compiled."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from transforms import applicable, assert_close, chosen, compiled

import convjax
from convjax.algorithms.conv.positions import Positions
from convjax.algorithms.conv.vmapped import Vmap
from convjax.algorithms.conv.winograd import Winograd
from convjax.choose import candidates
from convjax.explain import explain_problem
from convjax.problem import ConvSpec
from convjax.request import Request
from convjax.target import Target

X, W = jnp.ones((4, 16, 16, 8)), jnp.ones((3, 3, 8, 8))


def network(weights: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    x = convjax.conv(x, weights["dense"], bias=weights["bias"], padding="SAME")
    x = convjax.max_pool(jax.nn.relu(x), 3, strides=2, padding=1)
    x = convjax.depthwise_conv(x, weights["depthwise"], padding="SAME")
    x = convjax.conv(jax.nn.relu(x), weights["pointwise"])
    return jnp.sum(jnp.square(convjax.avg_pool(x, 2)))


WEIGHTS = {
    "dense": W,
    "bias": jnp.ones(8),
    "depthwise": jnp.ones((3, 3, 8, 1)),
    "pointwise": jnp.ones((1, 1, 8, 4)),
}


def ran(algorithm: str, program: str) -> bool:
    """Whether a compiled program has instructions under the algorithm's name."""
    return re.search(rf"[/(]{re.escape(algorithm)}[/)]", program) is not None


# Explaining.


def test_a_training_step_is_explained_in_full() -> None:
    explanation = convjax.explain(jax.jit(jax.value_and_grad(network)), WEIGHTS, X, platform="cpu")
    found = [(row.role, row.problem.operation) for row in explanation.rows for _ in range(row.count)]
    # Three forward convolutions, their weight gradients, and the two input gradients that reach further back.
    assert sorted(found) == sorted(
        [("fprop", "conv")] * 3
        + [("wgrad", "conv")] * 3
        + [("dgrad", "conv")] * 2
        + [("fprop", "max"), ("dgrad", "argmax"), ("dgrad", "put"), ("fprop", "sum"), ("dgrad", "sum")]
    )
    text = str(explanation)
    for row in explanation.rows:
        registered = {str(a) for a in convjax.algorithms(row.problem.operation)}
        assert {row.algorithm, *(name for name, _ in row.rejected)} == registered
        assert row.reason
        assert all(reasons and all(reasons) for _, reasons in row.rejected)
        assert row.predicted is not None
        assert row.predicted > 0
        assert f"{row.role:6} {row.problem}" in text
        assert f"-> {row.algorithm}: {row.reason}" in text


def test_what_is_explained_is_what_is_compiled() -> None:
    gradient = jax.grad(network)
    program = compiled(gradient, WEIGHTS, X)
    for row in convjax.explain(gradient, WEIGHTS, X, platform="cpu").rows:
        assert ran(row.algorithm, program)


def test_equal_problems_are_one_row_and_stock_operations_are_named() -> None:
    def fn(x: jax.Array, w: jax.Array) -> jax.Array:
        for _ in range(3):
            x = convjax.conv(x, w, padding="SAME")
        x = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    rows = convjax.explain(fn, X, W).rows
    assert [(row.role, row.problem.operation, row.count) for row in rows] == [
        ("fprop", "conv", 3),
        ("stock", "conv", 1),
        ("stock", "max", 1),
    ]


def test_rows_inside_scan_cond_and_remat_are_found() -> None:
    def fn(x: jax.Array, w: jax.Array) -> jax.Array:
        @jax.checkpoint
        def block(x: jax.Array) -> jax.Array:
            return convjax.conv(x, w, padding="SAME")

        x = lax.scan(lambda x, _: (block(x), None), x, length=2)[0]
        return lax.cond(x.sum() > 0, lambda x: convjax.max_pool(x, 2), lambda x: convjax.min_pool(x, 2), x)

    assert sorted(row.problem.operation for row in convjax.explain(fn, X, W).rows) == ["conv", "max", "min"]


def test_kernels_are_transformed_when_they_are_needed() -> None:
    def fn(x: jax.Array, kernels: list[jax.Array]) -> jax.Array:
        for w in kernels:
            x = convjax.conv(x, w, padding="SAME", algorithm="winograd(tile=4)")
        return x

    x, kernels = jnp.ones((1, 12, 12, 128)), [jnp.ones((3, 3, 128, 128))] * 8
    transformed = 4 * 36 * 128 * 128
    program = jax.jit(fn).lower(x, kernels).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4 * transformed  # of one or two, and what is made of x


# Asking.


@pytest.mark.parametrize("algorithm", [str(a) for a in convjax.algorithms("conv")])
def test_the_convolution_asked_for_is_compiled(algorithm: str) -> None:
    plain, plane = functools.partial(convjax.conv, algorithm=algorithm), jnp.ones((1, 7, 7, 2))
    fn, x, kernel = {  # those that rewrite a problem need one to rewrite
        "polyphase": (functools.partial(convjax.conv_transpose, strides=2, algorithm=algorithm), plane, (3, 3)),
        "sub_pixel": (functools.partial(convjax.conv_transpose, strides=2, algorithm=algorithm), plane, (3, 3)),
        "space_to_depth": (functools.partial(plain, strides=2), plane, (3, 3)),
        "space_to_batch": (functools.partial(plain, dilation=2), plane, (3, 3)),
        "split": (plain, plane, (7, 2)),
        "fold_depth": (plain, jnp.ones((1, 4, 5, 5, 2)), (2, 3, 3)),
        "overlap_save": (plain, jnp.ones((1, 40, 2)), (3,)),
    }.get(algorithm.split("(")[0], (plain, plane, (3, 3)))
    w = jnp.ones((*kernel, 2, 2))

    assert chosen(fn, x, w) == [algorithm]
    program = compiled(fn, x, w)
    assert ran(algorithm, program)
    assert (" fft(" in program) == ("fft" in algorithm)
    assert (" convolution(" in program) == (algorithm == "lax" or "by=lax" in algorithm)
    assert ("__onednn$convolution" in program) == ("onednn" in algorithm)


@pytest.mark.parametrize("algorithm", [str(a) for a in convjax.algorithms("max") if a.name != "mask"])
def test_the_pooling_asked_for_is_compiled(algorithm: str) -> None:
    def fn(x: jax.Array) -> jax.Array:
        return convjax.max_pool(x, 8, algorithm=algorithm)

    program = compiled(fn, X)
    assert chosen(fn, X) == [algorithm]
    assert ran(algorithm, program)
    assert ("reduce-window" in program) == (algorithm == "lax")


def test_a_name_prefers_the_algorithm_in_gradients_and_a_mapping_binds_the_passes_it_names() -> None:
    def loss(algorithm: Any) -> Callable[..., Any]:
        return jax.grad(lambda x, w: jnp.sum(jnp.square(convjax.conv(x, w, algorithm=algorithm))), (0, 1))

    assert chosen(loss("winograd(tile=2)"), X, W) == ["winograd(tile=2)"]
    assert chosen(loss("winograd(tile=2)"), X, W, role="dgrad") == ["winograd(tile=2)"]
    assert chosen(loss("winograd(tile=2)"), X, W, role="wgrad") != ["winograd(tile=2)"]  # 14 taps an axis
    mapping = {"fprop": "im2col", "dgrad": "shift(by=dot)", "wgrad": ["winograd", "positions(by=dot)"]}
    taken = [chosen(loss(mapping), X, W, role=role) for role in ("fprop", "dgrad", "wgrad")]
    assert taken == [["im2col"], ["shift(by=dot)"], ["positions(by=dot)"]]
    with pytest.raises(
        ValueError, match=r"does not apply to wgrad of conv .*winograd\(tile=2\): no axis has 2 to 3 taps"
    ):
        jax.jit(loss({"wgrad": "winograd"})).lower(X, W)


def test_passes_keep_their_algorithms_in_second_derivatives() -> None:
    def fn(x: jax.Array, w: jax.Array) -> jax.Array:
        return convjax.conv(x, w, algorithm={"fprop": "im2col", "dgrad": "shift(by=dot)", "wgrad": "vmap"}).sum()

    def hvp(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.grad(lambda w: jnp.vdot(jax.grad(fn)(x, w), x))(w)

    taken = {(row.role, row.algorithm) for row in convjax.explain(hvp, X, W, platform="cpu").rows}
    assert taken == {("fprop", "im2col"), ("dgrad", "shift(by=dot)"), ("wgrad", "vmap")}


def test_families_sequences_and_values_are_read() -> None:
    def taken(algorithm: Any) -> list[str]:
        return chosen(lambda x, w: convjax.conv(x, w, algorithm=algorithm), X, W)

    assert taken("winograd")[0].startswith("winograd(")
    assert taken(Winograd(tile=2)) == ["winograd(tile=2)"]
    assert taken(["shift(by=dot)", "im2col"]) == ["shift(by=dot)"]
    wide = jnp.ones((3, 3, 8, 99))
    assert chosen(lambda x, w: convjax.conv(x, w, algorithm=["shift(by=multiply)", "im2col"]), X, wide) == ["im2col"]


def test_an_algorithm_that_does_not_apply_is_refused_with_its_reasons() -> None:
    x, w = jnp.ones((1, 9, 9, 2)), jnp.ones((7, 7, 2, 2))
    for call in (convjax.conv, jax.jit(convjax.conv, static_argnames="algorithm")):
        with pytest.raises(
            ValueError, match=r"does not apply to fprop of conv .*winograd\(tile=2\): no axis .*kernel 7x7"
        ):
            call(x, w, algorithm="winograd")
    with pytest.raises(ValueError, match=r"does not apply to fprop of max .*reshape: .*do not tile"):
        convjax.max_pool(x, 3, strides=2, algorithm="reshape")


def test_unknown_names_are_refused_with_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"'winogard' is not one of lax, shift, .*winograd, .*fft"):
        convjax.conv(X, W, algorithm="winogard")
    with pytest.raises(ValueError, match=r"'winograd\(tile=3\)' is not one of winograd\(tile=2\), winograd\(tile=4\) "):
        convjax.conv(X, W, algorithm="winograd(tile=3)")
    with pytest.raises(ValueError, match=r"'fft' is not one of lax, shift, reshape, .*, mask \(for max\)"):
        convjax.max_pool(X, 2, algorithm="fft")
    with pytest.raises(ValueError, match=r"the pass 'backward'; the passes are fprop, dgrad, wgrad"):
        convjax.conv(X, W, algorithm={"backward": "lax"})
    with pytest.raises(ValueError, match="empty sequence"):
        convjax.conv(X, W, algorithm=[])
    with pytest.raises(TypeError, match=r"algorithm must be a name, .* got 4"):
        convjax.conv(X, W, algorithm=[4])
    with pytest.raises(ValueError, match=r"op must be one of conv, max, .* got 'pool'"):
        convjax.algorithms("pool")


# Limiting.


@pytest.mark.parametrize("limit", [{"max_workspace_bytes": 0}, {"max_error": 5e-6}])
def test_a_jitted_function_is_traced_again_under_a_limit(limit: dict[str, Any]) -> None:
    x, w = jnp.ones((4, 28, 28, 128)), jnp.ones((3, 3, 128, 128))
    traces = 0

    @jax.jit
    def fn(x: jax.Array, w: jax.Array) -> jax.Array:
        nonlocal traces
        traces += 1
        return convjax.conv(x, w)

    def all_ran() -> list[str]:
        program = fn.lower(x, w).compile().as_text()
        return [str(a) for a in convjax.algorithms("conv") if ran(str(a), program)]

    (free,) = all_ran()
    assert free.startswith("winograd")
    fn(x, w)
    assert traces == 1
    with convjax.using(**limit):
        fn(x, w)
        assert traces == 2
        (limited,) = all_ran()
        assert limited != free
        assert chosen(fn, x, w) == [limited]
    fn(x, w)
    assert traces == 2
    assert all_ran() == chosen(fn, x, w) == [free]


def test_a_small_problem_admits_workspace_out_of_proportion() -> None:
    # Stock lax makes a dense kernel of 768 x 768 channels and a mask of this: 115 MB each.
    problem = ConvSpec.parse("conv float32[8,2,2,768] float32[8,2,2,768] f01b_i01o->01bf pad=3_3x3_3 batch_groups=768")
    allowed, rejected, _ = candidates(problem, Request(), Target("cpu"))
    assert 4 * problem.bytes < Positions("reduce").cost(problem).workspace < 2**22
    assert Positions("reduce") in allowed
    assert explain_problem(problem, platform="cpu").rows[0].algorithm != "lax"
    (wasteful,) = rejected[Vmap()]
    assert re.fullmatch(r"needs \d+ bytes .* operands and result are 1388544 and 4194304 are too many", wasteful)


def test_limits_reject_by_what_algorithms_state() -> None:
    problem = ConvSpec.parse("conv float32[4,112,112,8] float32[3,3,8,8] b01f_01io->b01f")
    x = jax.ShapeDtypeStruct((4, 112, 112, 8), jnp.float32)

    def rows() -> Any:
        (row,) = convjax.explain(lambda x, w: convjax.conv(x, w), x, W, platform="cpu").rows
        assert row.problem == problem
        return row

    def rejected_of(name: str) -> str:
        return str(dict(rows().rejected)[name][0])

    assert re.fullmatch(r"needs \d+ bytes of workspace, 4 times operands and result are \d+", rejected_of("vmap"))
    with convjax.using(max_workspace_bytes=10**9):
        assert re.fullmatch(r"predicted .*x the time", rejected_of("vmap"))
    with convjax.using(max_workspace_bytes=1000):
        rejected = dict(rows().rejected)
        for a in applicable(problem):
            if a.cost(problem).workspace > 1000:
                assert re.fullmatch(r"needs \d+ bytes of workspace, 1000 are allowed", rejected[str(a)][0])
        with (
            convjax.using(max_error=1e-9, max_workspace_bytes=10**9),
            pytest.raises(ValueError, match="max_error=1e-09"),
        ):
            rows()
    with convjax.using(max_error=1.0):
        assert not any("states an error" in " ".join(reasons) for _, reasons in rows().rejected)
    for name in ("max_workspace_bytes", "max_error"):
        for value in (-1, float("nan")):
            with pytest.raises(ValueError, match=f"{name} must not be negative, got {value}"):
                convjax.using(**{name: value}).__enter__()
        with pytest.raises(TypeError, match=f"{name} must be a number, got '1 MB'"):
            convjax.using(**{name: "1 MB"}).__enter__()
    for name, value in (("deterministic", "yes"), ("portable", "yes"), ("device", "cpu")):
        with pytest.raises(TypeError, match=f"{name} must be .*, got '{value}'"):
            convjax.using(**{name: value}).__enter__()


@pytest.mark.parametrize("precision", [None, "high", "highest", lax.Precision.HIGHEST])
def test_precision_admits_algorithms_by_their_stated_error(precision: Any) -> None:
    admitted = {None: 2e-5, "high": 4e-6}.get(precision, 0.0)
    (row,) = convjax.explain(lambda x, w: convjax.conv(x, w, precision=precision), X, W, platform="cpu").rows
    assert isinstance(row.problem, ConvSpec)
    rejected = dict(row.rejected)
    direct = min(a.error(row.problem) for a in applicable(row.problem))
    for a in applicable(row.problem):
        refused = str(a) in rejected and rejected[str(a)][0].startswith("states an error")
        assert refused == (a.error(row.problem) > max(admitted, direct))


@pytest.mark.parametrize("precision", ["F32_F32_F32", lax.DotAlgorithmPreset.BF16_BF16_F32])
def test_presets_of_dots_are_the_default_of_convolutions(precision: Any) -> None:
    """As in lax, whose convolutions do not know them."""
    (row,) = convjax.explain(lambda x, w: convjax.conv(x, w, precision=precision), X, W, platform="cpu").rows
    assert isinstance(row.problem, ConvSpec)
    assert row.problem.precision == "default"
    np.testing.assert_array_equal(convjax.conv(X, W, precision=precision), convjax.conv(X, W))
    if isinstance(precision, str):
        with jax.default_matmul_precision(precision):
            gradient = jax.grad(lambda w: convjax.conv(X, w).sum())(W)
        np.testing.assert_array_equal(gradient, jax.grad(lambda w: convjax.conv(X, w).sum())(W))


def test_of_empty_problems_nothing_is_computed() -> None:
    for shape in ((0, 9, 9, 4), (1, 2, 9, 4)):
        problem = ConvSpec.parse(f"conv float32[{','.join(map(str, shape))}] float32[3,3,4,4] b01f_01io->b01f")
        (row,) = explain_problem(problem, platform="cpu").rows
        assert row.reason == "nothing is computed, since the problem is empty"


def test_unknown_platforms_are_refused() -> None:
    for call in (convjax.explain, convjax.tune):
        with pytest.raises(ValueError, match="platform must be one of cpu, cuda, rocm, tpu, got 'gpu'"):
            call(convjax.conv, X, W, platform="gpu")
        with pytest.raises(TypeError, match="fn must be a function, got int"):
            call(3, X)  # type: ignore[arg-type]


# Composing.


def test_chosen_algorithms_survive_jit_of_vmap_of_grad() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 2, 8, 8, 4)).astype(np.float32)
    w = rng.standard_normal((3, 3, 4, 4)).astype(np.float32)

    def loss(conv: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        return lambda w, x: jnp.sum(jnp.square(conv(x, w)))

    def stock(x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    got, want = (jax.jit(jax.vmap(jax.grad(loss(conv)), (None, 0)))(w, x) for conv in (convjax.conv, stock))
    assert_close({"grad": got}, {"grad": want}, 1e-4)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_programs_for_accelerators_are_lowered_here(platform: str) -> None:
    exported = jax.export.export(jax.jit(jax.grad(network)), platforms=[platform])(WEIGHTS, X)
    assert exported.platforms == (platform,)
    assert all(row.algorithm for row in convjax.explain(jax.grad(network), WEIGHTS, X, platform=platform).rows)


def test_explicit_sharding_is_carried_as_lax_carries_it() -> None:
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x = jax.device_put(X, NamedSharding(mesh, PartitionSpec("batch")))

        def fn(x: jax.Array, w: jax.Array) -> jax.Array:
            return convjax.avg_pool(convjax.max_pool(convjax.conv(x, w, padding="SAME"), 2), 2)

        assert jax.typeof(jax.jit(fn)(x, W)).sharding.spec[0] == "batch"
        gradient = jax.jit(jax.grad(lambda x, w: jnp.sum(jnp.square(fn(x, w)))))(x, W)
        assert jax.typeof(gradient).sharding.spec[0] == "batch"
        np.testing.assert_allclose(np.asarray(jax.jit(fn)(x, W)), np.asarray(fn(X, W)), rtol=1e-5)
