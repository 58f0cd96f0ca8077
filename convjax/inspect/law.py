"""Which elements of an input axis each index of a value's axis sees, as a law that holds for all indices."""

import dataclasses
import math

import numpy as np

_NOTHING = (math.inf, -math.inf)


@dataclasses.dataclass(frozen=True, eq=False)
class Law:
    """Index q P + r, with 0 <= r < P, sees the elements q shift + lo[r] .. q shift + hi[r].

    P, the period, is the length of `lo` and `hi`: 1 for convolutions and poolings, whose stride is shift, and more
    where elements are spread apart (transposed convolutions), repeated or interleaved. A phase r that sees nothing
    has lo = inf and hi = -inf.
    """

    shift: int
    lo: np.ndarray
    hi: np.ndarray

    @property
    def period(self) -> int:
        return len(self.lo)

    @property
    def moves(self) -> bool:
        """Whether the indices that see anything do not all see the same."""
        ends = np.stack([self.lo, self.hi])[:, np.isfinite(self.lo)]
        return self.shift != 0 or bool(np.any(ends != ends[:, :1]))

    def at(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and last element that each index sees."""
        q, r = np.divmod(index, self.period)
        return q * self.shift + self.lo[r], q * self.shift + self.hi[r]

    def hull(self, count: int) -> tuple[float, float]:
        """First and last element that the indices below `count` see."""
        lo, hi = self.at(np.arange(count))
        return float(lo.min(initial=math.inf)), float(hi.max(initial=-math.inf))

    def sampled(self, shift: int, taps: np.ndarray, seen: np.ndarray | bool = True) -> "Law":
        """The law of an axis whose index q R + r sees this one's indices q shift + taps[r], `taps` having R rows.

        Taps that are not `seen` add nothing.
        """
        turns = self.period // math.gcd(self.period, shift)
        lo, hi = self.at(np.arange(turns)[:, None, None] * shift + taps)
        lo, hi = (np.where(seen, bound, nothing) for bound, nothing in zip((lo, hi), _NOTHING, strict=True))
        return simplest(
            turns * shift // self.period * self.shift,
            lo.min(2, initial=math.inf).reshape(-1),
            hi.max(2, initial=-math.inf).reshape(-1),
        )

    def windows(self, taps: int, stride: int = 1, lo: int = 0, base_dilation: int = 1, dilation: int = 1) -> "Law":
        """The law of windows of `taps` elements over this axis, spread and padded."""
        start = -lo + dilation * np.arange(taps)
        return self.spread(base_dilation).sampled(stride, start[None])

    def spread(self, gap: int) -> "Law":
        """The law where every index comes `gap` apart, with nothing between."""
        lo, hi = (np.full((self.period, gap), value) for value in _NOTHING)
        lo[:, 0], hi[:, 0] = self.lo, self.hi
        return simplest(self.shift, lo.reshape(-1), hi.reshape(-1))

    def merged(self, minor: "Law", count: int) -> "Law":
        """The law of index i count + j, where i sees by this law and j < count adds what it sees by `minor`."""
        lo, hi = minor.at(np.arange(count))
        return simplest(self.shift, np.add.outer(self.lo, lo).reshape(-1), np.add.outer(self.hi, hi).reshape(-1))

    def split(self, count: int) -> "tuple[Law, Law] | None":
        """The laws of i and of j < count in index i count + j, None where what they see does not add up."""
        rows = self.period // math.gcd(self.period, count)
        index = np.arange(rows)[:, None] * count + np.arange(count)
        lo, hi = self.at(index)
        seen = np.argwhere(np.isfinite(lo))
        if not len(seen):
            return self.sampled(count, np.zeros((1, 1), int)), STILL
        i, j = seen[0]
        minor = lo[i] - lo[i, j], hi[i] - hi[i, j]
        whole = np.add.outer(lo[:, j], minor[0]), np.add.outer(hi[:, j], minor[1])
        if not (np.array_equal(lo, whole[0]) and np.array_equal(hi, whole[1])):
            return None
        return self.sampled(count, np.full((1, 1), j)), tabled(*minor)

    def same(self, other: "Law") -> bool:
        return self is other or (
            self.shift == other.shift and np.array_equal(self.lo, other.lo) and np.array_equal(self.hi, other.hi)
        )

    def union(self, other: "Law") -> "Law | None":
        """What either sees, None where they move at different strides."""
        if self.shift * other.period != other.shift * self.period:
            return None
        period = math.lcm(self.period, other.period)
        (lo, hi), (other_lo, other_hi) = (each.at(np.arange(period)) for each in (self, other))
        return simplest(self.shift * period // self.period, np.minimum(lo, other_lo), np.maximum(hi, other_hi))

    def moved(self, lo: float, hi: float) -> "Law":
        return Law(self.shift, self.lo + lo, self.hi + hi)


def simplest(shift: int, lo: np.ndarray, hi: np.ndarray) -> Law:
    """A law with the shortest period that says the same."""
    count = len(lo)
    divisors = np.flatnonzero(count % np.arange(1, count) == 0) + 1
    for period in map(int, divisors):
        if shift * period % count:
            continue
        step = shift * period // count
        if all(np.array_equal(bound[period:], bound[:-period] + step) for bound in (lo, hi)):
            return Law(step, lo[:period], hi[:period])
    return Law(shift, lo, hi)


# What every index sees alike, and what each sees of the axis that is itself.
STILL = Law(0, np.zeros(1), np.zeros(1))
ITSELF = Law(1, np.zeros(1), np.zeros(1))


def tabled(lo: np.ndarray, hi: np.ndarray, shift: int = 0) -> Law:
    """The law by which index i sees lo[i] .. hi[i]; where it has no period, the table is one, of this shift."""
    return _periodic(lo, hi, np.full(len(lo), True)) or simplest(shift, lo, hi)


def resampled(lo: np.ndarray, hi: np.ndarray, size: int) -> Law:
    """`tabled` for windows of an axis of `size` elements that are cut off at its ends, as a resized image's are."""
    exact = _periodic(lo, hi, np.full(len(lo), True))
    if exact is not None:
        return exact
    inner = _periodic(lo, hi, (lo > 0) & (hi < size - 1))
    if inner is not None:
        cut = [np.clip(bound, 0, size - 1) for bound in inner.at(np.arange(len(lo)))]
        if np.array_equal(cut, [lo, hi]):
            return inner
    return simplest(size, lo, hi)


def _periodic(lo: np.ndarray, hi: np.ndarray, inside: np.ndarray) -> Law | None:
    """The law with the shortest period that says of the indices `inside` what the table does, if there is one."""
    index = np.arange(len(lo))
    for period in range(1, len(lo) // 2 + 1):
        first = index[:-period][inside[:-period] & inside[period:]]
        seen = first[np.isfinite(lo[first])]
        if not len(seen) or len(np.unique(index[inside] % period)) < period:
            continue
        step = lo[seen[0] + period] - lo[seen[0]]
        if math.isfinite(step) and all(
            np.array_equal(bound[first + period], bound[first] + step) for bound in (lo, hi)
        ):
            chosen = np.array([index[inside & (index % period == r)][0] for r in range(period)])
            passed = chosen // period * step
            return simplest(int(step), lo[chosen] - passed, hi[chosen] - passed)
    return None
