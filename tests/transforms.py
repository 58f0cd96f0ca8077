"""What a function of operands is put through, as one program each, and how its results are compared.

`f` takes arrays and returns one array. Operands come stacked in pairs: the first of a pair is the point, the
second the tangent, and the pair itself is what `vmap` maps over.
"""

import collections
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

import convjax
from convjax.algorithms import named
from convjax.algorithms.numerics import error_on
from convjax.algorithms.protocol import Algorithm
from convjax.explain import Explanation
from convjax.platforms import default_platform
from convjax.problem import ConvSpec, Problem

Function = Callable[..., jax.Array]
Results = dict[str, Any]

# Where the suite runs: `JAX_PLATFORMS=cuda,cpu` takes it to a GPU.
PLATFORM = default_platform()


def products(program: str) -> int:
    """Matrix products that a lowered program states or calls."""
    return program.count("stablehlo.dot_general") + program.count("__onednn$matmul")


def loss_of(f: Function) -> Callable[..., jax.Array]:
    """Sum of c f for bilinear f, whose second derivatives mix its operands; of c f^2 / 2 for f of one operand."""

    def loss(c: jax.Array, *operands: jax.Array) -> jax.Array:
        value = f(*operands)
        return jnp.sum(c * (value if len(operands) > 1 else jnp.square(value) / 2))

    return loss


def differentiated(f: Function, c: jax.Array, *operands: jax.Array) -> Results:
    """Value, gradients, jvp, Hessian-vector product, vmap over each operand and over all, and vmap of the gradient."""
    points, tangents = tuple(x[0] for x in operands), tuple(x[1] for x in operands)
    every = tuple(range(1, len(operands) + 1))
    gradient = jax.grad(loss_of(f), every)
    value, pullback = jax.vjp(f, *points)
    results = {
        "value": value,
        "grad": pullback(c[0]),
        "jvp": jax.jvp(f, points, tangents)[1],
        "hvp": jax.jvp(lambda *x: gradient(c[0], *x), points, tangents)[1],
        "vmap": jax.vmap(f)(*operands),
        "vmap of grad": jax.vmap(gradient)(c, *operands),
    }
    for i in range(len(operands)) if len(operands) > 1 else ():
        mapped = [x if i == j else x[0] for j, x in enumerate(operands)]
        results[f"vmap over operand {i}"] = jax.vmap(f, [0 if i == j else None for j in range(len(operands))])(*mapped)
    return results


def rematerialized(f: Function, c: jax.Array, *operands: jax.Array) -> Results:
    """The gradients of a scan over the last operand whose steps are computed again on the way back."""
    *fixed, scanned = (*(x[0] for x in operands[:-1]), operands[-1])

    def loss(*arrays: jax.Array) -> jax.Array:
        *fixed, scanned = arrays

        def step(total: jax.Array, x: jax.Array) -> tuple[jax.Array, None]:
            return total + loss_of(jax.checkpoint(f))(c[0], *fixed, x), None

        return jax.lax.scan(step, jnp.zeros((), c.dtype), scanned)[0]

    return {"remat in scan": jax.grad(loss, tuple(range(len(operands))))(*fixed, scanned)}


def sharded(f: Function, c: jax.Array, *operands: jax.Array) -> Results:
    """Value and gradients with the first operand's pair on two devices and the others on both."""
    batch, both = PartitionSpec("batch"), PartitionSpec()
    first, *rest = operands[0], *(x[0] for x in operands[1:])

    @jax.shard_map(mesh=two_devices(), in_specs=(batch, *[both] * len(rest)), out_specs=batch)
    def on_each(x: jax.Array, *rest: jax.Array) -> jax.Array:
        return f(x[0], *rest)[None]

    gradient = jax.grad(loss_of(on_each), tuple(range(1, len(operands) + 1)))
    return {"shard_map": on_each(first, *rest), "grad of shard_map": gradient(c, first, *rest)}


def compiled(fn: Callable[..., Any], *args: Any) -> str:
    """The program that XLA makes of it."""
    return jax.jit(fn).lower(*args).compile().as_text()


def chosen(fn: Callable[..., Any], *args: Any, role: str = "fprop") -> list[str]:
    """What is taken for its convolutions and poolings of a role."""
    return [row.algorithm for row in convjax.explain(fn, *args, platform=PLATFORM).rows if row.role == role]


def lax_arguments(problem: ConvSpec) -> tuple[Any, ...]:
    """What follows the operands in a call of `conv_general_dilated` that states the problem."""
    return (
        problem.strides,
        problem.padding,
        problem.lhs_dilation,
        problem.rhs_dilation,
        lax.ConvDimensionNumbers(*problem.dimension_numbers),
        problem.feature_groups,
        problem.batch_groups,
    )


def two_devices() -> Mesh:
    return Mesh(np.array(jax.devices()[:2]), ("batch",))


def assert_close(got: Results, want: Results, bound: float) -> None:
    """Every result within `bound` of the largest element of its counterpart; the first that is not is named."""
    for name, expected in want.items():
        for i, (a, b) in enumerate(zip(jax.tree.leaves(got[name]), jax.tree.leaves(expected), strict=True)):
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            assert a.shape == b.shape, f"{name}[{i}] has shape {a.shape} where {b.shape} is due"
            scale = np.max(np.abs(b), initial=0) or 1.0
            error = np.max(np.abs(a - b), initial=0) / scale
            assert error <= bound, f"{name}[{i}] is off by {error:.2e} of the largest element, {bound:.2e} is allowed"


def stated_error(explanation: Explanation) -> float:
    """The largest error that the algorithms taken state for their problems."""
    return max(
        (error_on(PLATFORM, named(row.problem.operation, row.algorithm)[0], row.problem) for row in explanation.rows),
        default=0.0,
    )


def applicable(problem: Problem) -> list[Algorithm]:
    """The algorithms that promise a right answer on `problem`."""
    return [a for a in convjax.algorithms(problem.operation) if not a.unsupported(problem, PLATFORM)]


def in_turn(pairs: Iterable[tuple[Algorithm, Any]], most: int | None = None) -> list[tuple[Algorithm, Any]]:
    """For every problem the one algorithm, of those that `pairs` has for it, that has had the fewest so far; or the
    first problems of those, until every algorithm has had as many as `most`.
    """
    candidates: dict[Any, list[Algorithm]] = {}
    for algorithm, problem in pairs:
        candidates.setdefault(problem, []).append(algorithm)
    had: collections.Counter[Algorithm] = collections.Counter()
    taken = []
    for problem, algorithms in candidates.items():
        algorithm = min(algorithms, key=lambda a: (had[a], str(a)))
        if most is None or had[algorithm] < most:
            had[algorithm] += 1
            taken.append((algorithm, problem))
    return taken
