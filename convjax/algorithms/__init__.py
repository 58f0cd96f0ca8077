"""The registered algorithms: one explicit, ordered tuple an operation.

To add one, write its file and name it here; the conformance suite then tests it.
"""

from convjax.algorithms.conv.fft import FFT
from convjax.algorithms.conv.fold_depth import FoldDepth
from convjax.algorithms.conv.im2col import Im2col
from convjax.algorithms.conv.kn2row import Kn2row
from convjax.algorithms.conv.lax_conv import Lax
from convjax.algorithms.conv.onednn_conv import OneDNN
from convjax.algorithms.conv.overlap_save import OverlapSave
from convjax.algorithms.conv.polyphase import Polyphase
from convjax.algorithms.conv.positions import Positions
from convjax.algorithms.conv.shift import Shift
from convjax.algorithms.conv.space_to_batch import SpaceToBatch
from convjax.algorithms.conv.space_to_depth import SpaceToDepth
from convjax.algorithms.conv.split import Split
from convjax.algorithms.conv.sub_pixel import SubPixel
from convjax.algorithms.conv.vmapped import Vmap
from convjax.algorithms.conv.winograd import Winograd
from convjax.algorithms.conv.winograd_taps import WinogradTaps
from convjax.algorithms.protocol import Algorithm, describe
from convjax.algorithms.window.doubling import Doubling as DoublingWindow
from convjax.algorithms.window.lax_window import Lax as LaxWindow
from convjax.algorithms.window.mask import Mask as MaskWindow
from convjax.algorithms.window.reshape import Reshape as ReshapeWindow
from convjax.algorithms.window.separable import Separable as SeparableWindow
from convjax.algorithms.window.shift import Shift as ShiftWindow
from convjax.algorithms.window.summed_area import SummedArea
from convjax.problem import WindowSpec

_CONV: tuple[Algorithm, ...] = (
    Lax(),
    Shift("multiply"),
    Shift("dot"),
    Im2col(),
    Kn2row(),
    Winograd(2),
    Winograd(4),
    FFT(),
    Positions("reduce"),
    Positions("dot"),
    WinogradTaps(2),
    WinogradTaps(4),
    Polyphase(Lax()),
    Polyphase(OneDNN()),
    Polyphase(Shift("multiply")),
    Polyphase(Shift("dot")),
    Polyphase(WinogradTaps(4)),
    SubPixel(Lax()),
    SubPixel(OneDNN()),
    SubPixel(Shift("dot")),
    SubPixel(Winograd(2)),
    SubPixel(Winograd(4)),
    SubPixel(WinogradTaps(4)),
    SpaceToDepth(Lax()),
    SpaceToDepth(Shift("dot")),
    SpaceToDepth(Winograd(2)),
    SpaceToDepth(Winograd(4)),
    SpaceToBatch(Winograd(4)),
    Split(Winograd(4)),
    FoldDepth(Lax()),
    OverlapSave(FFT()),
    OneDNN(),
    Vmap(),
)
_WINDOW: tuple[Algorithm, ...] = (
    LaxWindow(),
    ShiftWindow(),
    ReshapeWindow(),
    SeparableWindow(),
    DoublingWindow(),
    MaskWindow(),
)

_SUM = (*_WINDOW, SummedArea())

# A platform without measured constants takes the first that applies, and on some lax adds in another order each run.
_PUT = (*_WINDOW[1:], _WINDOW[0])

REGISTRY: dict[str, tuple[Algorithm, ...]] = {"conv": _CONV} | dict.fromkeys(WindowSpec.OPERATIONS, _WINDOW)
REGISTRY["sum"], REGISTRY["put"] = _SUM, _PUT

for _operation, _registered in REGISTRY.items():
    _names = [describe(a) for a in _registered]
    if len(set(_names)) < len(_names):
        raise ValueError(f"{_operation} has an algorithm registered twice: {', '.join(_names)}")


def algorithms(op: str | None = None) -> tuple[Algorithm, ...]:
    """The registered algorithms of `op`, or of all operations without repeats.

    Args:
        op: "conv", or a window operation, of `WindowSpec.OPERATIONS`.

    Example:
        >>> [str(a) for a in algorithms("max")]
        ['lax', 'shift', 'reshape', 'separable', 'doubling', 'mask']
    """
    if op is None:
        return tuple(dict.fromkeys(a for registered in (_CONV, _SUM) for a in registered))
    if op not in REGISTRY:
        raise ValueError(f"op must be one of {', '.join(REGISTRY)}, got {op!r}")
    return REGISTRY[op]


def named(operation: str, name: str) -> tuple[Algorithm, ...]:
    """The algorithms of `operation` that `name` stands for: a whole family, or one with its knobs.

    Example:
        >>> [str(a) for a in named("conv", "winograd")]
        ['winograd(tile=2)', 'winograd(tile=4)']
    """
    found = tuple(a for a in algorithms(operation) if name in (a.name, describe(a)))
    if not found:
        family = [describe(a) for a in algorithms(operation) if a.name == name.split("(")[0]]
        valid = family or dict.fromkeys(a.name for a in algorithms(operation))
        raise ValueError(f"algorithm {name!r} is not one of {', '.join(valid)} (for {operation})")
    return found
