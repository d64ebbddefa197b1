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
    for `below_sql`."""
    return f"tuple(mapKeys(sumMap({column}) AS map_{column}), mapValues(map_{column})) AS all_{column}"


def gathered_sql(column: str) -> str:
    """As `summed_sql`, but for groups most of which have one map: these are put one after another, and a
    statement around it with the column of `merged_sql` adds up those of groups that have more."""
    return (
        f"groupArrayArray(mapKeys({column})) AS keys_{column}, "
        f"groupArrayArray(mapValues({column})) AS values_{column}, "
        f"countIf(notEmpty({column})) AS maps_{column}"
    )


def merged_sql(column: str) -> str:
    """What `summed_sql` has, in SQL, of what has the columns of `gathered_sql`."""
    one, more = f"(keys_{column}, values_{column})", f"[keys_{column}], [values_{column}]"
    return f"if(maps_{column} < 2, {one}, arrayReduce('sumMap', {more}))"


def below_sql(column: str, summed: str) -> str:
    """Columns in SQL for `places_sql`; `summed`: what `summed_sql` has. These go into three statements, each
    around the other, because the server plans an expression as often as it is written."""
    return (
        f"tupleElement({summed} AS all_of_{column}, 1) AS classes_{column}, "
        f"tupleElement(all_of_{column}, 2) AS counts_{column}, arrayCumSum(counts_{column}) AS below_{column}"
    )


def places_sql(column: str, parts: Sequence[float]) -> str:
    """Columns in SQL for `quantiles_sql`: in which class each of some quantiles is."""
    # Each by itself: what a function of the elements takes from outside is copied for each of them, which
    # is little for a number and much for an array.
    wanted = [f"{part} * below_{column}[-1] AS wanted{i}_{column}" for i, part in enumerate(parts)]
    places = [
        f"arrayFirstIndex(n -> n >= wanted{i}_{column}, below_{column}) AS place{i}_{column}"
        for i in range(len(parts))
    ]
    return ", ".join(wanted + places)


def quantiles_sql(column: str, parts: Sequence[float]) -> str:
    """Quantiles in SQL of what has the columns of `below_sql` and `places_sql`, microseconds, in the order of
    `parts`, as an Array(Float64); NaN when nothing was counted."""
    found = []
    for i in range(len(parts)):
        place = f"place{i}_{column}"
        after = f"(below_{column}[{place}] - wanted{i}_{column}) / counts_{column}[{place}]"
        found.append(f"exp2((classes_{column}[{place}] + 1 - {after}) / {_WIDTH})")
    return f"[{', '.join(found)}]"
