"""Primitives that only compute, by name: on single elements, or over axes."""

# One operation for every element that is made.
ELEMENTWISE = frozenset([
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh", "bessel_i0e",
    "bessel_i1e", "cbrt", "ceil", "clamp", "clz", "complex", "conj", "cos", "cosh", "digamma", "div", "eq", "eq_to",
    "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "igamma", "igamma_grad_a", "igammac",
    "imag", "integer_pow", "is_finite", "le", "le_to", "lgamma", "log", "log1p", "log2", "logistic", "lt", "lt_to",
    "max", "min", "mul", "ne", "neg", "nextafter", "not", "one_minus_square", "or", "polygamma", "population_count",
    "pow", "real", "regularized_incomplete_beta", "rem", "round", "rsqrt", "select_n", "shift_left",
    "shift_right_arithmetic", "shift_right_logical", "sign", "sin", "sinh", "sqrt", "square", "sub", "tan", "tanh",
    "xor", "zeta",
])  # fmt: skip
# One operation for every element that is read: axes are reduced, or hold what they add up to so far.
REDUCTIONS = frozenset([
    "argmax", "argmin", "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod", "reduce_sum",
    "reduce_xor",
])  # fmt: skip
CUMULATIVE = frozenset(["cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum"])
# Reductions of several arrays, each to a result of its own.
JOINED = frozenset(["convjax_sums"])
# One operation for every element that is put in its place.
SCATTERED = frozenset(["scatter-add", "scatter-max", "scatter-min", "scatter-mul", "scatter-sub"])
