"""Rule: quantiles of times that are counted in classes.

A time of t microseconds is in the class floor(8 log2 t): each class is an eighth of an octave wide, 9 %.
Within a
class the times are taken to be spread evenly by their logarithm, so a quantile is off by less than that.
ClickHouse counts them (0013_report_periods.sql), because such counts add up in a hundredth of the time that
digests take."""

from __future__ import annotations

from collections.abc import Sequence
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


def summed_sql(column: str) -> str:
    """A column of a statement in SQL that adds up `column`, maps of classes and how many times are in each,
    for `quantiles_sql`."""
    return f"sumMap(mapKeys({column}), mapValues({column})) AS all_{column}"


def gathered_sql(column: str) -> str:
    """As `summed_sql`, but for groups most of which have one map: these are put one after another, and a
    statement around it with the column of `merged_sql` adds up those of groups that have more."""
    return (
        f"groupArrayArray(mapKeys({column})) AS keys_{column}, "
        f"groupArrayArray(mapValues({column})) AS values_{column}, "
        f"countIf(notEmpty({column})) AS maps_{column}"
    )


def merged_sql(column: str) -> str:
    """A column in SQL of what has the columns of `gathered_sql`, for `quantiles_sql`."""
    one, more = f"(keys_{column}, values_{column})", f"[keys_{column}], [values_{column}]"
    return f"if(maps_{column} < 2, {one}, arrayReduce('sumMap', {more})) AS all_{column}"


def quantiles_sql(column: str, parts: Sequence[float]) -> str:
    """Quantiles in SQL of what has the column of `summed_sql` or `merged_sql`, microseconds, in the order of
    `parts`, as an Array(Float64); NaN when nothing was counted."""
    classes, counts = f"tupleElement(all_{column}, 1)", f"tupleElement(all_{column}, 2)"
    below = f"arrayCumSum({counts})"
    # Each by itself: what a function of the elements takes from outside is copied for each of them, which
    # is little for a number and much for an array.
    found = []
    for part in parts:
        wanted = f"({part} * {below}[-1])"
        place = f"arrayFirstIndex(n -> n >= {wanted}, {below})"
        inside = f"({wanted} - {below}[{place}] + {counts}[{place}]) / {counts}[{place}]"
        found.append(f"exp2(({classes}[{place}] + {inside}) / {_WIDTH})")
    return f"[{', '.join(found)}]"
