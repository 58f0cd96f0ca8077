"""Programs that XLA divides among devices: what is computed is right, and nothing moves that need not."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from transforms import chosen, compiled, lax_arguments, two_devices

import convjax
from convjax.algorithms import algorithms
from convjax.algorithms.conv import group_windows
from convjax.algorithms.conv.lax_conv import Lax, _convolution
from convjax.algorithms.conv.polyphase import Polyphase
from convjax.algorithms.conv.rewritten import Holding
from convjax.algorithms.conv.sub_pixel import SubPixel
from convjax.algorithms.protocol import Algorithm, is_opaque
from convjax.device_kind import device_kind
from convjax.plans import Plan, Plans, Time
from convjax.problem import ConvSpec
from convjax.testing import random_operands, reference

# Of these XLA's own division among devices is half zeros, or wrong elsewhere, or ends the process.
DIVIDED = [
    ("conv float32[8,6,7,8] float32[3,3,2,16] b01f_01io->bf01 pad=1_1x1_1 feature_groups=4", "f", "o"),
    ("conv float32[8,8,6,7] float32[3,3,1,16] bf01_01io->b01f pad=1_1x1_1 feature_groups=8", "f", "o"),
    ("conv float32[8,6,7,8] float32[1,6,7,80] f01b_i01o->01bf pad=1_1x1_1 feature_groups=8", "f", "o"),
    ("conv float32[4,6,5,8] float32[6,5,2,16] b01f_01io->b01f feature_groups=4", "f", ""),
    ("conv float32[4,8,6,5] float32[8,4,6,1] bf01_oi01->bf01 stride=2x1 feature_groups=2", "0", "o"),
    ("conv float32[8,5,2,4] float32[5,2,8,12] f01b_01io->0f1b batch_groups=2", "f", "o"),
    ("conv float32[4,6,7,8] float32[3,3,8,8] b01f_01io->b01f pad=1_1x1_1 batch_groups=2", "", "i"),
    ("conv float32[4,6,7,8] float32[3,3,8,8] b01f_01io->b01f pad=1_1x1_1 batch_groups=2", "f", ""),
    ("conv float32[4,8,6,8] float32[4,4,8,4] b01f_01io->b01f pad=3_3x3_3 lhs_dilate=2x2", "", "1"),
    ("conv float32[8,8,6,4] float32[4,4,8,4] f01b_01io->01bf pad=1_1x1_1 lhs_dilate=2x2", "b", "i"),
    ("conv float32[8,8,6,4] float32[3,3,8,4] f01b_01io->bf01 pad=1_0x1_0 lhs_dilate=2x2", "0", ""),
    ("conv float32[4,8,6,8] float32[3,4,2,4] b01f_01io->bf01 pad=2_1x1_2 lhs_dilate=2x3 feature_groups=4", "f", "o"),
]

# A kind of problem for every algorithm, divided as programs do it: by batch, by rows, by features and by examples.
ORDINARY = [
    ("conv float32[4,8,6,8] float32[3,3,8,16] b01f_01io->b01f pad=1_1x1_1", "0", "", "0"),
    ("conv float32[4,8,6,8] float32[3,3,8,16] b01f_01io->b01f stride=2x2 pad=1_1x1_1", "b", "o", "f"),
    ("conv float32[4,8,6,8] float32[3,3,8,16] b01f_01io->b01f pad=1_2x1_2 rhs_dilate=2x2", "0", "", "b"),
    ("conv float32[4,8,6,8] float32[4,4,8,4] b01f_01io->b01f pad=2_2x2_2 lhs_dilate=2x2", "b", "", "1"),
    ("conv float32[8,8,6,4] float32[8,6,8,4] f01b_i01o->01bf pad=1_1x1_1", "f", "i", "b"),
    ("conv float32[4,8,6,8] float32[3,4,1,8] b01f_01io->b01f pad=1_1x1_2 feature_groups=8", "b", "", "0"),
    ("conv float32[8,8,6,4] float32[8,8,6,4] f01b_i01o->01bf pad=1_1x1_1 batch_groups=4", "f", "i", "f"),
    ("conv float32[2,4,6,6,4] float32[3,3,3,4,8] b012f_012io->b012f pad=1_1x1_1x1_1", "0", "", "0"),
    ("conv float32[4,300,8] float32[9,1,8] b0f_0io->b0f pad=4_4 feature_groups=8", "b", "", "0"),
]

# Rows of which each of four devices has one: dilated inputs, and rows that Winograd's tiles overlap.
ONE_ROW_EACH = [
    "conv float32[2,4,9,2] float32[8,4,4,2] b01f_01oi->b01f pad=6_7x1_1 lhs_dilate=2x1",
    "conv float32[2,4,9,8] float32[3,3,8,8] b01f_01io->b01f pad=1_1x1_1",
    "conv float32[2,4,9,8] float32[2,5,8,8] b01f_01io->b01f pad=1_0x2_2",
    "conv float32[2,8,9,8] float32[3,3,8,8] b01f_01io->b01f stride=2x1 pad=1_1x1_1",
    "conv float32[8,4,9,2] float32[8,4,9,8] f01b_i01o->01bf pad=1_1x1_1",
    "conv float32[8,4,9,2] float32[8,4,9,8] f01b_i01o->01bf pad=2_3x1_0",
]

# Divided by a mesh of two axes, a letter for each, "-" where it divides nothing: XLA's own division is wrong of these.
OF_TWO_AXES = [
    ("conv float32[4,8,8,8] float32[3,3,8,8] b01f_01io->b01f pad=1_1x1_1", "-0", "oi", ""),
    ("conv float32[4,8,8,8] float32[3,3,8,8] b01f_01io->b01f pad=1_1x1_1", "0-", "--", "0f"),
    ("conv float32[4,8,8,8] float32[3,3,8,8] b01f_01io->b01f stride=2x2 pad=1_1x1_1", "1-", "-i", "--"),
    ("conv float32[4,8,8,8] float32[2,2,8,8] b01f_01io->b01f stride=2x2 ", "-f", "01", "01"),
    ("conv float32[4,8,8,8] float32[4,4,8,8] b01f_01io->b01f pad=3_3x3_3 lhs_dilate=2x2", "--", "--", "f0"),
    ("conv float32[8,8,8,4] float32[8,8,8,4] f01b_i01o->01bf pad=1_1x1_1", "-0", "o0", "b-"),
    ("conv float32[4,16,8] float32[3,8,8] b0f_0io->b0f pad=1_1", "--", "-o", "0f"),
]


def four_devices() -> Mesh:
    return Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("batch", "model"))


def _shardings(text: str, divided: Sequence[str], mesh: Mesh) -> Iterator[NamedSharding]:
    """Of lhs, rhs and the result, halved along the axes of these letters, one for each axis of the mesh."""
    specs = re.fullmatch(r".*\] (\w+)_(\w+)->(\w+) .*", text).groups()  # type: ignore[union-attr]
    for spec, letters in zip(specs, divided, strict=True):
        axis_of = dict(zip(letters, mesh.axis_names, strict=False))
        yield NamedSharding(mesh, PartitionSpec(*(axis_of.get(c) for c in spec)))


def _divided(text: str, divided: Sequence[str], algorithm: object, mesh: Mesh | None = None) -> np.ndarray:
    """The result of `algorithm` with its operands and itself divided so, among two devices if no mesh is given."""
    problem = ConvSpec.parse(text)
    of_lhs, of_rhs, of_out = _shardings(text, divided, mesh or two_devices())

    def conv(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        return convjax.conv_general_dilated(lhs, rhs, *lax_arguments(problem), algorithm=algorithm)

    x, w = random_operands(problem, 0)
    return np.asarray(jax.jit(conv, out_shardings=of_out)(jax.device_put(x, of_lhs), jax.device_put(w, of_rhs)))


@pytest.mark.parametrize("algorithm", algorithms("conv"), ids=str)
def test_every_algorithm_is_right_when_it_is_divided_or_refuses(algorithm: Algorithm) -> None:
    problems = {text: ConvSpec.parse(text) for text, *_ in ORDINARY}
    applies = [case for case in ORDINARY if not algorithm.unsupported(problems[case[0]], "cpu")]
    assert applies
    for text, *divided in applies[-3:]:
        if is_opaque(algorithm):
            with pytest.raises(ValueError, match="calls a library by name, and the program is divided among devices"):
                _divided(text, divided, algorithm)
            continue
        got = _divided(text, divided, algorithm)
        want = reference(problems[text], *random_operands(problems[text], 0))
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=text)


@pytest.mark.parametrize("algorithm", [None, *(a for a in algorithms("conv") if not is_opaque(a))], ids=str)
def test_every_algorithm_is_right_where_a_device_has_one_row(algorithm: Algorithm | None) -> None:
    rows = Mesh(np.array(jax.devices()[:4]), ("rows",))
    for text in ONE_ROW_EACH:
        problem = ConvSpec.parse(text)
        if algorithm is None or not algorithm.unsupported(problem, "cpu"):
            want = reference(problem, *random_operands(problem, 0))
            of_kernel = "0" if problem.kernel[0] % 4 == 0 else ""
            for divided in (("0", "", ""), ("0", of_kernel, "b" if problem.output_shape[0] % 4 == 0 else "")):
                got = _divided(text, divided, algorithm, rows)
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3, err_msg=text)


@pytest.mark.parametrize(("text", "of_lhs", "of_rhs"), DIVIDED)
@pytest.mark.parametrize("of_out", ["b", "f", "0", "1"])
def test_lax_is_right_where_xla_divides_it_wrongly(text: str, of_lhs: str, of_rhs: str, of_out: str) -> None:
    problem = ConvSpec.parse(text)
    out_spec = text.partition("->")[2].split()[0]
    size = dict(zip(out_spec, problem.output_shape, strict=True))[of_out]
    got = _divided(text, (of_lhs, of_rhs, of_out if size % 2 == 0 else ""), "lax")
    np.testing.assert_allclose(got, reference(problem, *random_operands(problem, 0)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("algorithm", ["lax", None])
@pytest.mark.parametrize(("text", "of_lhs", "of_rhs", "of_out"), OF_TWO_AXES)
def test_divisions_by_two_axes_are_right(text: str, of_lhs: str, of_rhs: str, of_out: str, algorithm: Any) -> None:
    problem = ConvSpec.parse(text)
    got = _divided(text, (of_lhs, of_rhs, of_out), algorithm, four_devices())
    np.testing.assert_allclose(got, reference(problem, *random_operands(problem, 0)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("of_lhs", ["f", "0", "1"])
def test_what_shard_map_leaves_to_xla_is_divided_as_under_jit(of_lhs: str) -> None:
    """One axis of the mesh is shard_map's, and XLA divides along the other."""
    text = "conv float32[8,8,6,4] float32[4,4,8,4] f01b_01io->01bf pad=1_1x1_1 lhs_dilate=2x2"
    problem, mesh = ConvSpec.parse(text), four_devices()
    x, w = random_operands(problem, 0)

    def conv(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        return convjax.conv_general_dilated(lhs[0], rhs, *lax_arguments(problem), algorithm="lax")[None]

    batch, letters = PartitionSpec("batch"), "f01b"
    mapped = jax.shard_map(
        conv, mesh=mesh, in_specs=(batch, PartitionSpec()), out_specs=batch, axis_names=frozenset({"batch"})
    )
    of_x = NamedSharding(mesh, PartitionSpec("batch", *("model" if c == of_lhs else None for c in letters)))
    of_w = NamedSharding(mesh, PartitionSpec(None, None, "model"))
    got = jax.jit(mapped)(jax.device_put(np.stack([x, -x]), of_x), jax.device_put(w, of_w))
    want = reference(problem, x, w)
    np.testing.assert_allclose(got, np.stack([want, -want]), rtol=1e-4, atol=1e-4)


# Divided by batch, which weight gradients sum.
BY_BATCH = [
    ("conv float32[4,8,8,4] float32[3,3,4,4] b01f_01io->b01f pad=1_1x1_1", "b", ""),
    ("conv float32[8,14,14,32] float32[3,3,32,32] b01f_01io->b01f stride=2x2 pad=1_1x1_1", "b", ""),
    ("conv float32[32,7,7,256] float32[3,3,256,256] b01f_01io->b01f pad=1_1x1_1", "b", ""),
    ("conv float32[8,7,7,32] float32[3,3,32,32] b01f_01oi->b01f pad=1_2x1_2 lhs_dilate=2x2", "b", ""),
    ("conv float32[8,14,14,32] float32[3,3,1,32] b01f_01io->b01f stride=2x2 pad=0_1x0_1 feature_groups=32", "b", ""),
    ("conv float32[4,64,16] float32[3,16,16] b0f_0io->b0f pad=1_1", "b", ""),
    ("conv float32[32,14,14,64] float32[32,7,7,64] f01b_i01o->01bf pad=0_1x0_1 rhs_dilate=2x2", "f", "i"),
    ("conv float32[8,14,14,32] float32[8,14,14,32] f01b_i01o->01bf pad=1_1x1_1 batch_groups=32", "f", "i"),
    ("conv float32[8,14,14,64] float32[8,14,14,64] f01b_i01o->01bf pad=1_1x1_1 batch_groups=4", "f", "i"),
]
MOVES = re.compile(r" (all-gather|all-to-all|collective-permute|all-reduce)(?:-start)?\(")


def _moved(f: Callable[..., jax.Array], *operands: jax.ShapeDtypeStruct) -> tuple[list[str], Any]:
    """What a program moves between devices, and how its result is divided."""
    program = jax.jit(f).lower(*operands).compile()
    return sorted(MOVES.findall(program.as_text() or "")), program.output_shardings.spec


@pytest.mark.parametrize(("text", "of_lhs", "of_rhs"), BY_BATCH)
def test_the_choice_moves_no_more_than_lax_does(text: str, of_lhs: str, of_rhs: str) -> None:
    problem = ConvSpec.parse(text)
    shardings = _shardings(text, (of_lhs, of_rhs, ""), Mesh(np.array(jax.devices()[:4]), ("batch",)))
    operands = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
        for shape, sharding in zip((problem.lhs_shape, problem.rhs_shape), shardings, strict=False)
    ]
    arguments = lax_arguments(problem)
    stock = _moved(lambda lhs, rhs: jax.lax.conv_general_dilated(lhs, rhs, *arguments), *operands)
    assert _moved(lambda lhs, rhs: convjax.conv_general_dilated(lhs, rhs, *arguments), *operands) == stock


@pytest.mark.parametrize("on_miss", ["error", "tune"])
def test_plans_of_what_is_not_taken_where_it_is_divided_are_plans(
    on_miss: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = ConvSpec.parse("conv float32[4,8,8,4] float32[3,3,4,4] b01f_01io->b01f pad=1_1x1_1")
    (fft,) = (a for a in algorithms("conv") if a.name == "fft")
    plan = Plan(str(problem), device_kind("cpu") or "", (Time(str(fft), fft.version, 1e-9),))
    monkeypatch.setattr("convjax.measure.measure_problem", lambda *_: pytest.fail("it is measured again"))
    batch = NamedSharding(two_devices(), PartitionSpec("batch"))
    x, w = random_operands(problem, 0)
    with convjax.using(Plans((plan,)), on_miss=on_miss):
        conv = jax.jit(lambda x, w: convjax.conv(x, w, padding=1))
        assert "fft" in (conv.lower(x, w).compile().as_text() or "")
        placed = jax.device_put(x, batch), w
        assert "all-gather" not in (conv.lower(*placed).compile().as_text() or "")
        np.testing.assert_allclose(conv(*placed), reference(problem, x, w), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pool", [convjax.max_pool, convjax.avg_pool], ids=["max", "average"])
@pytest.mark.parametrize(("window", "strides"), [(3, 2), (2, 2), (7, 1)])
def test_poolings_of_divided_batches_move_nothing(pool: Any, window: int, strides: int) -> None:
    def gradient(x: jax.Array) -> jax.Array:
        return jax.grad(lambda x: jnp.sum(jnp.square(pool(x, window, strides=strides))))(x)

    batch = NamedSharding(Mesh(np.array(jax.devices()[:4]), ("batch",)), PartitionSpec("batch"))
    moved, spec = _moved(gradient, jax.ShapeDtypeStruct((4, 9, 9, 16), jnp.float32, sharding=batch))
    assert (moved, spec[0]) == ([], "batch")


def test_gradients_of_single_sharded_examples_stay_where_the_examples_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_windows, "_TURN_BYTES", 2**16)
    sharding = NamedSharding(two_devices(), PartitionSpec("batch"))
    x, w = jax.device_put(jax.random.normal(jax.random.key(0), (8, 6, 7, 32)), sharding), jnp.ones((3, 3, 32, 40))

    def loss(w: jax.Array, x: jax.Array, algorithm: str) -> jax.Array:
        return jnp.sum(jnp.square(convjax.conv(x[None], w, algorithm={"fprop": "im2col", "wgrad": algorithm})))

    def gradients(w: jax.Array, x: jax.Array, algorithm: str) -> jax.Array:
        return jax.vmap(jax.grad(loss), in_axes=(None, 0, None))(w, x, algorithm)

    looped = jax.jit(gradients, static_argnums=2)
    text = looped.lower(w, x, "positions(by=dot)").compile().as_text()
    assert "while" in text
    assert "all-gather" not in text
    got = looped(w, x, "positions(by=dot)")
    assert got.sharding.spec[0] == "batch"
    want = looped(w, np.asarray(x), "positions(by=dot)")
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-4, atol=1e-3)
    # As groups that lhs and the result have at different axes, XLA leaves zeros of half of the examples.
    np.testing.assert_allclose(np.asarray(looped(w, x, "lax")), np.asarray(want), rtol=1e-4, atol=1e-3)


def test_a_batch_sharded_grouped_convolution_gathers_no_activations() -> None:
    sharding = NamedSharding(two_devices(), PartitionSpec("batch"))
    x, w = jax.device_put(jnp.ones((4, 28, 28, 64)), sharding), jnp.ones((3, 3, 4, 64))

    def fn(x: jax.Array, w: jax.Array) -> jax.Array:
        return convjax.conv(x, w, padding="SAME", groups=16)

    assert chosen(fn, x, w) != ["lax"]  # which gathers
    assert "all-gather" not in compiled(fn, x, w)
    assert jax.jit(fn)(x, w).sharding == sharding
    gradient = jax.grad(lambda x, w: jnp.sum(jnp.square(fn(x, w))), (0, 1))
    # What is gathered to be summed is never larger than the weights.
    for shape in re.findall(r"= f32\[([\d,]*)\]\S* all-gather\(", compiled(gradient, x, w)):
        assert np.prod([int(n) for n in shape.split(",")]) <= w.size


@pytest.mark.parametrize("members", [PartitionSpec(), PartitionSpec("batch")], ids=["on each", "divided"])
def test_a_vmapped_pointwise_convolution_is_right_when_its_members_are_divided(members: PartitionSpec) -> None:
    """XLA 0.10 and 0.12 divide the grouped convolution of one tap that this becomes wrongly."""
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3, 5, 5, 6), (2, 1, 1, 6, 4)))
    placed = [
        jax.device_put(a, NamedSharding(two_devices(), s)) for a, s in ((x, members), (w, PartitionSpec("batch")))
    ]
    got = jax.jit(jax.vmap(convjax.conv))(*placed)
    np.testing.assert_allclose(got, np.einsum("mnhwc,mck->mnhwk", x, w[:, 0, 0]), rtol=1e-4, atol=1e-5)


class OnGPUs(Lax):
    """lax as GPUs have it, whose programs XLA divides as it does those of CPUs."""

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        return _convolution(problem, lhs, rhs)


@pytest.mark.parametrize("composite", [SubPixel, Polyphase], ids=lambda composite: composite.name)
@pytest.mark.parametrize("of_out", ["b", "f"])
def test_what_is_made_of_lax_is_divided_as_lax_is(composite: type[Holding], of_out: str) -> None:
    text = "conv float32[4,6,5,8] float32[2,2,2,16] b01f_01io->b01f pad=1_1x1_1 lhs_dilate=2x2 feature_groups=4"
    problem = ConvSpec.parse(text)
    got = _divided(text, ("f", "o", of_out), composite(OnGPUs()))
    np.testing.assert_allclose(got, reference(problem, *random_operands(problem, 0)), rtol=1e-4, atol=1e-4)
