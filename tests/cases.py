"""`cases.json` read: cases by number, their arrays, and cases that state everything as functions of their operands."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import convjax

CASES: dict[str, dict[str, Any]] = {
    case["id"]: case for case in json.loads(Path(__file__).with_name("cases.json").read_text(encoding="utf-8"))
}
LAYOUTS = {1: "NCW", 2: "NCHW", 3: "NCDHW"}
OPTIONS = ("padding", "dilation", "groups", "ceil_mode", "count_include_pad", "divisor_override")


def numbers(value: Any, dtype: str = "float32") -> np.ndarray:
    """An array as the cases write it: nested lists, {"arange": n, "shape": s} or "ones(1,1,3,3)"."""
    if isinstance(value, str):
        return np.ones([int(n) for n in value.removeprefix("ones(").removesuffix(")").split(",")], dtype)
    if isinstance(value, dict):
        return np.arange(value["arange"]).astype(dtype).reshape(value.get("shape", -1))
    return np.array(value).astype(float).astype(dtype)  # float reads "-inf"


def batched(x: np.ndarray, ndim: int) -> jax.Array:
    return jnp.asarray(x.reshape((1,) * (ndim + 2 - x.ndim) + x.shape))


def plane(n: int, *shape: int) -> jax.Array:
    return jnp.arange(float(n)).reshape(1, 1, *shape)


def conv(x: jax.Array, w: jax.Array, **options: Any) -> jax.Array:
    """`convjax.conv` of channels-first x by w (K, C / groups, *kernel)."""
    return convjax.conv(x, jnp.moveaxis(w, (0, 1), (-1, -2)), layout=LAYOUTS[x.ndim - 2], **options)


def padded(x: list[float], lo: int, hi: int, mode: Any) -> jax.Array:
    """What a kernel of one tap sees of a padded line."""
    return conv(batched(numbers(x), 1), jnp.ones((1, 1, 1)), padding=[(lo, hi)], padding_mode=mode)[0, 0]


class Stated:
    """A case that states everything: a function of its operands, x and perhaps w."""

    def __init__(self, name: str) -> None:
        args, operation = CASES[name]["args"], CASES[name]["op"]
        self.ndim = 1 if operation.startswith("pad_") else int(operation[-2])
        self.function: Any = conv
        self.options = {k: v for k, v in args.items() if k in OPTIONS}
        if "stride" in args:
            self.options["strides"] = args["stride"]
        shape = args.get("x_shape", [1, 1, *[args.get("n", 1)] * self.ndim])
        x = numbers(args["x"], args.get("dtype", "float32")) if "x" in args else np.ones(shape, np.float32)
        self.operands = [batched(x, self.ndim)]
        if operation.startswith("pad_"):  # a kernel of one tap shows the padding
            self.options = {"padding": [args["pad"]], "padding_mode": operation.removeprefix("pad_")}
            self.operands.append(jnp.ones((1, 1, 1)))
        elif operation.startswith("conv"):
            self.options |= {"padding_mode": args.get("padding_mode", "zeros")}
            w = numbers(args["w"]) if "w" in args else np.ones([1, shape[1], *[args["kernel"]] * self.ndim], np.float32)
            self.operands.append(batched(w, self.ndim))
        else:
            self.function = getattr(convjax, operation[:-2])
            self.options |= {"window": args["kernel"], "layout": LAYOUTS[self.ndim]}

    def __call__(self, *operands: jax.Array, **options: Any) -> Any:
        return self.function(*operands, **self.options, **options)

    def cotangent(self, given: Any, value: jax.Array) -> jax.Array:
        return jnp.ones_like(value) if given is None else batched(numbers(given), self.ndim)
