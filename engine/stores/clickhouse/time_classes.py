"""Rule: quantiles of times that are counted in classes.

A time of t microseconds is in the class floor(8 log2 t): each class is an eighth of an octave wide, 9 %.
Within a class the times are taken to be spread evenly by their logarithm, so a quantile is off by less than
that (`_report_sums`).
ClickHouse counts them (0013_report_periods.sql), because such counts add up in a hundredth of the time that
digests take."""

from __future__ import annotations

from itertools import pairwise

# Classes in an octave.
_WIDTH = 8
# The bounds of the parts that a digest is divided in.
_PARTS = (*(round(0.05 * i, 2) for i in range(19)), 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 1)
# No times.
EMPTY_SQL = "CAST(map(), 'Map(UInt16, UInt64)')"


def class_sql(time_us: str) -> str:
    """The class of a time in SQL; `time_us`: an expression of microseconds."""
    return f"toUInt16(floor({_WIDTH} * log2(greatest({time_us}, 1))))"


def classes_sql(digest: str, count: str) -> str:
    """About how many times of a digest are in each class, in SQL, as a Map(UInt16, UInt64).

    `digest`: a column of states of quantilesTDigestIf, which are merged. `count`: an expression of how many
    times there are. The digest is asked for the middle of each of some parts, which are the smaller the
    nearer they are to the longest times; all times of a part are taken to be in the class of that.
    """
    middles = ", ".join(str(round((a + b) / 2, 5)) for a, b in pairwise(_PARTS))
    # As many as there are, however they are divided.
    counts = ", ".join(f"toUInt64(round({count} * {b}) - round({count} * {a}))" for a, b in pairwise(_PARTS))
    found = f"quantilesTDigestIfMerge({middles})({digest})"
    classes = f"arrayMap(q -> {class_sql('q')}, {found} AS found_{digest})"
    return (
        f"if(isNaN(found_{digest}[1]), {EMPTY_SQL}, "
        f"CAST(arrayReduce('sumMap', [{classes}], [[{counts}]]), 'Map(UInt16, UInt64)'))"
    )
