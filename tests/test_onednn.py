"""oneDNN as jaxlib brings it: where it is called, where it must not be, and what it is not given."""

import concurrent.futures
import functools
import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import convjax
from convjax import processor
from convjax.algorithms import named, onednn
from convjax.algorithms.products import columns_by_columns
from convjax.device_kind import device_kind
from convjax.plans import Plan, Plans, Time
from convjax.problem import ConvSpec
from convjax.target import Target, compiling_for
from convjax.testing import check_algorithm, random_operands

# Elsewhere there is none; where there is, a reason not to call it fails these tests.
HERE = sys.platform == "linux" and platform.machine() == "x86_64" and "avx2" in processor.vectors()
pytestmark = pytest.mark.skipif(not HERE, reason="jaxlib has oneDNN for Linux on x86-64 alone, called with AVX2")

(ONEDNN,) = named("conv", "onednn")
X, W = np.ones((2, 12, 12, 32), np.float32), np.ones((3, 3, 4, 32), np.float32)
GROUPED = functools.partial(convjax.conv, groups=8, padding="SAME")


@pytest.fixture
def elsewhere() -> Iterator[None]:
    """Asks anew whether it can be called, before and after."""
    onednn.missing.cache_clear()
    yield
    onednn.missing.cache_clear()


def program(f: Any, *operands: Any) -> str:
    return jax.jit(f).lower(*operands).as_text()


def gradients(x: Any, w: Any) -> Any:
    return jax.grad(lambda x, w: jnp.sum(convjax.conv(x, w) ** 2), (0, 1))(x, w)


def test_it_is_called_by_name_and_its_values_are_right() -> None:
    call = functools.partial(GROUPED, algorithm="onednn")
    assert "__onednn$convolution" in program(call, X, W)
    x, w = (np.random.default_rng(0).standard_normal(a.shape).astype(np.float32) for a in (X, W))
    want = lax.conv_general_dilated(x, w, (1, 1), "SAME", None, None, ("NHWC", "HWIO", "NHWC"), 8)
    np.testing.assert_allclose(call(x, w), want, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("rows", "sides"), [(1, (1, 1)), (7, (3, 5)), (300, (16, 33)), (5, (1, 40))])
def test_products_of_columns(batch: int, rows: int, sides: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-3, 4, (batch, rows, side)).astype(np.float32) for side in sides)
    problem = ConvSpec.parse("conv float32[1,4,4,1] float32[1,1,1,1] b01f_01io->b01f")
    product = functools.partial(columns_by_columns, problem, dtype=np.dtype(np.float32))
    with compiling_for(Target("cpu")):
        assert "__onednn$matmul" in program(product, x, w)
        np.testing.assert_array_equal(product(x, w), np.einsum("bri,brk->bik", x, w))
    with compiling_for(Target("cpu", portable=True)):
        assert "__onednn$" not in program(lambda x, w: product(x, w), x, w)


def test_a_program_that_is_exported_does_not_call_it() -> None:
    exported = jax.export.export(jax.jit(gradients))(X, np.ones((3, 3, 32, 32), np.float32))
    assert "__onednn$" not in exported.mlir_module()
    with pytest.raises(ValueError, match="calls a library by name, and the program is to be portable"):
        jax.export.export(jax.jit(functools.partial(GROUPED, algorithm="onednn")))(X, W)


def test_a_portable_program_does_not_call_it_and_says_so() -> None:
    large = np.ones((8, 28, 28, 64), np.float32), np.ones((1, 1, 64, 64), np.float32)
    assert "__onednn$" in program(gradients, *large)
    with convjax.using(portable=True):
        assert "__onednn$" not in program(gradients, *large)
        (row,) = convjax.explain(GROUPED, X, W, platform="cpu").rows
    assert "to be portable" in " ".join(dict(row.rejected)["onednn"])


def test_a_portable_program_is_tuned_without_it() -> None:
    with convjax.using(portable=True):
        (plan,) = convjax.tune(GROUPED, X, W, seconds=0.001, platform="cpu")
    assert "onednn" not in [time.algorithm for time in plan.times]


def test_plans_of_it_alone_do_not_make_portable_programs_measure_again(monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = convjax.explain(GROUPED, X, W, platform="cpu").rows
    known = Plans((Plan(str(row.problem), str(device_kind("cpu")), (Time("onednn", ONEDNN.version, 1e-6),)),))
    monkeypatch.setattr("convjax.plans._LEARNT", learnt := {})
    monkeypatch.setattr("convjax.plans._LEARNT_UNDER", set())
    with convjax.using(known, portable=True, on_miss="tune"):
        for _ in range(2):
            program(lambda x, w: GROUPED(x, w), X, W)
            assert len(learnt) == 1
    with convjax.using(known, on_miss="tune"):
        assert "__onednn$" in program(lambda x, w: GROUPED(x, w), X, W)


def test_what_jax_keeps_is_portable(tmp_path: Path) -> None:
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        assert "__onednn$" not in program(gradients, X, np.ones((3, 3, 32, 32), np.float32))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_a_divided_program_does_not_call_it() -> None:
    mesh = Mesh(np.array(jax.devices()[:2]), ("batch",))
    x = jax.device_put(X, NamedSharding(mesh, PartitionSpec("batch")))
    assert "__onednn$" not in program(gradients, x, np.ones((3, 3, 32, 32), np.float32))
    with pytest.raises(ValueError, match="and the program is divided among devices"):
        jax.jit(functools.partial(GROUPED, algorithm="onednn")).lower(x, W)


@pytest.mark.parametrize(
    ("machine", "version", "reason"),
    [
        ("aarch64", "0.10.1", "jaxlib has oneDNN for Linux on x86-64 alone"),
        ("x86_64", "0.10.0", "how jaxlib 0.10.0 is asked for oneDNN is not known, but of 0.10.1 to 0.12"),
        ("x86_64", "0.13.0rc1", "how jaxlib 0.13.0rc1 is asked for oneDNN is not known"),
    ],
)
def test_where_it_cannot_be_called(
    machine: str, version: str, reason: str, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    problem = ConvSpec.parse("conv float32[2,9,9,4] float32[3,3,4,8] b01f_01io->b01f")
    (told,) = ONEDNN.unsupported(problem, "cpu")
    assert told.startswith(reason)
    with compiling_for(Target("cpu")):
        assert not onednn.is_at_hand()


def test_old_processors_do_without_it(elsewhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "vectors", lambda: ("avx",))
    assert onednn.missing() == "the processor has no AVX2"


def test_a_jaxlib_without_it_says_so(elsewhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    call = onednn._call
    monkeypatch.setattr(onednn, "_call", lambda name, *rest: call("no such name", *rest))
    assert "has no oneDNN here" in str(onednn.missing())


# Of which oneDNN 3.7 reads too much, or leaves the result unwritten, as they lie.
FAULTS = [
    "conv float32[2,3,3,3,1] float32[5,1,3,1,3] 21b0f_oi012->b012f stride=1x1x2 pad=1_1x0_0x1_1 rhs_dilate=1x2x1",
    "conv float32[5,3,1,1] float32[3,3,1,1] b01f_01io->b01f stride=1x2 pad=2_0x0_2",
    "conv float32[2,8,5,3,1] float32[3,3,2,1,16] b012f_012io->b012f stride=1x1x2 pad=0_0x2_0x0_0 rhs_dilate=1x2x1",
    "conv float32[2,2,17] float32[1,2,1] bf0_0io->bf0 rhs_dilate=3",
]


@pytest.mark.parametrize("text", FAULTS)
def test_what_it_computes_wrongly_is_given_to_it_otherwise(text: str) -> None:
    assert check_algorithm(ONEDNN, [ConvSpec.parse(text)]) == 1


def test_many_calls_at_a_time() -> None:
    """Calls share XLA's threads with one another and with other programs, and give the same bits."""
    problem = ConvSpec.parse("conv float32[2,14,14,32] float32[3,3,4,32] b01f_01io->b01f pad=1_1x1_1 feature_groups=8")
    x, w = random_operands(problem, 0)

    @jax.jit
    def run(x: Any, w: Any) -> Any:
        parts = [lax.slice_in_dim(GROUPED(x + i, w, algorithm="onednn"), 0, 1, axis=3) for i in range(16)]
        return lax.fori_loop(0, 4, lambda _, y: y + GROUPED(x, w, algorithm="onednn")[..., :1], sum(parts))

    want = np.asarray(run(x, w))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for got in pool.map(lambda _: np.asarray(run(x, w)), range(64)):
            np.testing.assert_array_equal(got, want)


def test_products_that_do_not_fit_are_refused_and_do_not_end_the_process() -> None:
    with pytest.raises(TypeError, match=r"x of shape \(1, 16, 3\) and w of shape \(1, 8, 5\) do not fit"):
        onednn.product(jnp.ones((1, 16, 3)), jnp.ones((1, 8, 5)), (0, 0))
