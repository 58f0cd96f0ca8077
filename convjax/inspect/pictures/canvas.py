"""What all pictures share: figures that no window belongs to, colours, and the message where matplotlib is missing."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
INK, GREY, PALE = "#222222", "#8A8A8A", "#F2F2F2"


def figure(width: float, height: float) -> "Figure":
    """An empty figure of this size in inches. It is not pyplot's, so that nobody has to close it."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as missing:
        raise ImportError("pictures are drawn by matplotlib: pip install 'convjax[pictures]'") from missing
    made = Figure(figsize=(width, height), dpi=120, layout="constrained", facecolor="white")
    made.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr, call-arg]
    FigureCanvasAgg(made)
    return made


def bare(ax: "Axes") -> None:
    """No ticks and no frame."""
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)


def number(value: Any) -> str:
    """Integers of up to five digits as they are, so that sums can be checked; other numbers by three digits."""
    value = float(value) + 0.0  # no minus zero
    text = f"{value:.0f}" if value.is_integer() and abs(value) < 1e5 else f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}")
