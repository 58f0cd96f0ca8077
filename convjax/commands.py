"""The commands of `python -m convjax`: arguments in, a table or one sentence out.

Bad input exits with 2, an installation that is not well with 1, an interruption with 130.

To add one, write its function, which takes the parsed arguments and prints, and its parser in `_parser`.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from convjax.algorithms import REGISTRY
from convjax.algorithms.protocol import Algorithm, describe
from convjax.device_kind import device_kind
from convjax.doctor import examine
from convjax.explain import explain_problem
from convjax.inspect.shape import layer_shape
from convjax.lowering import compiled_here
from convjax.measure import SECONDS, is_known, measure_problem
from convjax.plans import Plans
from convjax.platforms import PLATFORMS, known_platform
from convjax.problem import parse
from convjax.request import Policy, Request


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command that `arguments` (by default the command line's) name."""
    given = _parser().parse_args(arguments)
    try:
        given.run(given)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has enough; Python would complain once more as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        resumes = "; the same command does what is left" if getattr(given, "save", None) else ""
        print(f"convjax: interrupted{resumes}", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        _refuse(str(error))
    except RuntimeError as error:
        if not str(error).startswith("Unable to initialize backend"):
            raise
        _refuse(str(error))


def _shape(given: argparse.Namespace) -> None:
    print(layer_shape(given.layer, given.layout))


def _algorithms(given: argparse.Namespace) -> None:
    by_registered: dict[tuple[Algorithm, ...], list[str]] = {}
    for operation, registered in REGISTRY.items():
        if given.operation in (None, operation):
            by_registered.setdefault(registered, []).append(operation)
    print("\n\n".join(_table(operations, registered) for registered, operations in by_registered.items()))


def _table(operations: Sequence[str], registered: Sequence[Algorithm]) -> str:
    """The algorithms in their order, and what the first line of each one's file says of it."""
    width = max(len(describe(a)) for a in registered)
    rows = [f"  {describe(a):{width}}  {_summary(a)}" for a in registered]
    return "\n".join([", ".join(operations), *rows])


def _summary(algorithm: Algorithm) -> str:
    documentation = sys.modules[type(algorithm).__module__].__doc__ or ""
    return documentation.strip().partition("\n")[0]


def _explain(given: argparse.Namespace) -> None:
    print(explain_problem(parse(given.problem), platform=given.platform))


def _tune(given: argparse.Namespace) -> None:
    """Measures problem by problem, each written to the file before the next, so that the same command resumes."""
    platform = known_platform(given.platform)
    target = compiled_here(platform, Policy())
    problems = [parse(text) for text in given.problem]  # all are read before any is measured
    if given.save and (given.save.is_dir() or not given.save.parent.is_dir()):
        raise ValueError(f"--save {given.save} must be a file in a folder that exists")
    known = Plans.load(given.save) if given.save and given.save.exists() else Plans()
    for done, problem in enumerate(problems, 1):
        usable = is_known(problem, Request(policy=Policy(plans=known)), target)  # not by other versions
        before = known.find(problem, device_kind(platform)) if usable else None
        plan = before or measure_problem(problem, Request(), target, given.seconds)
        known |= Plans((plan,))
        if given.save:
            known.save(given.save)
        print(f"{done} of {len(problems)}{', measured before' if before else ''}: {Plans((plan,))}", flush=True)


def _doctor(given: argparse.Namespace) -> None:
    ill = 0
    for well, line in examine():
        ill += not well
        print(line, flush=True)
    if ill:
        print(f"convjax: {ill} of these do not hold on this installation", file=sys.stderr)
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m convjax", description="Convolutions and poolings, looked at from the shell.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    shape = commands.add_parser("shape", help="what comes out of a layer, its parameters and its work")
    shape.add_argument("layer", metavar="LAYER", help="such as 'conv2d 3x10x10 -> 5 k3'; see convjax/layer.py")
    shape.add_argument(
        "--layout", help="NCHW, NHWC or their like; by default channels last, or C x H x W where there is no batch"
    )
    shape.set_defaults(run=_shape)

    algorithms = commands.add_parser("algorithms", help="the registered algorithms, by operation")
    algorithms.add_argument("operation", metavar="OPERATION", nargs="?", choices=REGISTRY, help=", ".join(REGISTRY))
    algorithms.set_defaults(run=_algorithms)

    explain = commands.add_parser("explain", help="the algorithm that is taken for a problem, and why")
    explain.add_argument(
        "problem",
        metavar="PROBLEM",
        help="as str(ConvSpec) or str(WindowSpec): 'conv float32[1,56,56,64] float32[3,3,64,64] b01f_01io->b01f'",
    )
    explain.add_argument("--platform", choices=PLATFORMS, help="by default that of the default backend")
    explain.set_defaults(run=_explain)

    tune = commands.add_parser("tune", help="measures the algorithms that apply to some problems")
    tune.add_argument("problem", metavar="PROBLEM", nargs="+", help="as for explain, which prints those of a function")
    tune.add_argument("--save", type=Path, metavar="FILE", help="plans for `convjax.Plans.load`; what it holds is kept")
    tune.add_argument("--seconds", type=float, default=SECONDS, help="for each algorithm of each problem")
    tune.add_argument("--platform", choices=PLATFORMS, help="by default that of the default backend")
    tune.set_defaults(run=_tune)

    doctor = commands.add_parser(
        "doctor", help="this installation, the faults of its jaxlib, and whether algorithms hold"
    )
    doctor.set_defaults(run=_doctor)
    return parser


class _Parser(argparse.ArgumentParser):
    """Refuses in one sentence, without the usage that `--help` shows."""

    def error(self, message: str) -> NoReturn:
        _refuse(message)


def _refuse(message: str) -> NoReturn:
    print(f"convjax: {message}", file=sys.stderr)
    sys.exit(2)
