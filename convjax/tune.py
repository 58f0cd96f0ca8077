"""`tune`: the candidates of every problem in a function measured on this machine, for `using` to follow."""

from collections.abc import Callable
from typing import Any

from convjax.explain import problems
from convjax.lowering import compiled_here
from convjax.measure import SECONDS, is_known, measure_problem, with_learnt
from convjax.plans import Plan, Plans
from convjax.platforms import known_platform
from convjax.problem import Problem
from convjax.request import Request
from convjax.tracing import trace


def tune(
    fn: Callable[..., Any],
    *args: Any,
    seconds: float = SECONDS,
    platform: str | None = None,
    progress: Callable[[Plan, int, int], None] | None = None,
    **kwargs: Any,
) -> Plans:
    """Measures the algorithms that apply to every convolution and pooling in `fn`, and returns their times.

    `fn` is traced and not run; each distinct problem in it is run alone, on random operands. Values are compared
    before they are timed, and candidates take turns. What the limits of `using` exclude is not tried, and problems
    that its plans hold are not measured again. Gradients are problems of their own: pass the gradient, or better the
    whole training step.

    Args:
        fn: any traceable function that calls convjax, such as `accelerate(step)`.
        *args, **kwargs: its arguments; arrays may be `jax.ShapeDtypeStruct`s, and what is no array reaches fn as given.
        seconds: time spent on each candidate of each problem, compilation not counted.
        platform: "cpu", "cuda", "rocm" or "tpu"; None is the default backend's.
        progress: called after each problem with its plan, the number measured and the number to be measured. Save
            what it is given to keep the work of a run that is interrupted.

    Returns:
        `Plans` for this kind of device; follow them with `convjax.using(plans)`, keep them with `plans.save(path)`.
        Problems that are in the plans in force are not among them: join the two by `|`.

    Raises:
        ValueError: `fn` has convolutions or poolings of lax alone, which no plan can change; `seconds` is not positive;
            the platform is unknown or no device of this machine; or every candidate for a problem computes it wrongly.

    Example:
        >>> import jax, jax.numpy as jnp, convjax
        >>> x, w = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
        >>> loss = lambda w: convjax.conv(x, w).sum()
        >>> plans = convjax.tune(jax.grad(loss), w, seconds=0.001)
        >>> with convjax.using(plans):
        ...     rows = convjax.explain(jax.grad(loss), w).rows
        >>> [row.role for row in rows if row.measured]
        ['fprop', 'wgrad']
    """
    platform = known_platform(platform)
    found: dict[Problem, Request] = {}
    stock = 0
    for problem, request in problems(trace(fn, args, kwargs).closed.jaxpr):
        if request is None:
            stock += 1
        elif not problem.empty:
            found.setdefault(problem, Request(role=request.role, policy=request.policy))
    if stock and not found:
        raise ValueError(
            f"fn has {stock} convolutions and poolings of lax and none of convjax: tune convjax.accelerate(fn) instead"
        )
    asked = [(problem, request, compiled_here(platform, request.policy)) for problem, request in found.items()]
    missing = [
        (problem, request, target)
        for problem, request, target in asked
        if not is_known(problem, with_learnt(problem, request, target), target)
    ]
    plans = []
    for done, one in enumerate(missing, 1):
        plans.append(measure_problem(*one, seconds))
        if progress is not None:
            progress(plans[-1], done, len(missing))
    return Plans(tuple(plans))
