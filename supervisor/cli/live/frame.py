"""Rule: one picture of the live view: what is known of the engine, as so many lines of so many columns.

The picture always has the height of the terminal. What does not fit is counted, in this order: first
processes, then providers, then sentences. On a wide terminal processes stand in two columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from supervisor.cli import show
from supervisor.cli.answers import Flow, NodeProcess, ProviderRates, Status
from supervisor.cli.live.spark import spark
from supervisor.cli.show_nodes import NodeRows, rows_of, scaled
from supervisor.cli.text import counted, number

# With so many lines, the alarms aside, everything has one line at least.
_LOW = 12
# From so many columns on, processes stand beside each other.
_WIDE = 120
_HEAD, _ILL, _DIM = "bold", "bold red", "dim"
_UNKNOWN = "?"
# Columns of the tables: (title, width); the first is left-aligned.
_QUEUE = (("queue", 8), ("in/s", 8), ("out/s", 8), ("waiting", 10), ("in hand", 8), ("due", 9),
          ("oldest", 8), ("p50", 8), ("p99", 8))  # fmt: skip
_PROVIDER = (("provider", 13), ("sends/s", 8), ("limit", 7), ("flight", 7), ("waits", 7), ("p50", 8),
             ("p99", 8), ("receipts/s", 11))  # fmt: skip
_PROCESS = (
    ("process", 13),
    ("state", 10),
    ("since", 8),
    ("CPU", 7),
    ("memory", 9),
    ("gen", 5),
    ("restarts", 9),
)


def frame(seen: Status, *, width: int, height: int, now_us: int, note: str = "") -> list[Text]:
    """The lines, exactly `height`, none wider than `width` columns.

    `now_us`: UTC microseconds. `note`: a sentence on how old this is, "" when it is of now.
    """
    head = [_top(seen, width, note)]
    alarms = [line for sentence in _missing(seen) for line in _wrapped(f"not known: {sentence}", width, _ILL)]
    alarms += [line for sentence in show.sentences(seen) for line in _wrapped(sentence, width, "yellow")]
    providers = _providers(seen.flow)
    nodes = [_node(rows, width, now_us) for rows in rows_of(seen)]
    # On a low terminal histories make room for what is wrong.
    is_low = height < len(alarms) + _LOW
    queues = [*_queues(seen, 0 if is_low else width), _credit(seen), _behind(seen)]
    room = height - len(head) - len(queues)
    # At least the titles of the nodes, and one line of the others that says how many there are.
    alarms = _cut(alarms, max(1, room - len(nodes) - min(len(providers), 2)), "lines")
    room -= len(alarms)
    # Half of the room is for the nodes, as far as they need it.
    needed = min(sum(map(len, nodes)), max(room // 2, 2 * len(nodes)))
    providers = _cut(providers, max(2, room - needed), "providers")
    lines = _spaced([head, queues, alarms, providers, _fitting(nodes, room - len(providers))], height)
    lines = lines[:height] + [Text()] * (height - len(lines))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _spaced(parts: Sequence[list[Text]], height: int) -> list[Text]:
    """The lines of all parts, with an empty line between them where there is room for all of these."""
    some = [part for part in parts if part]
    gap = [Text()] if sum(map(len, some)) + len(some) - 1 <= height else []
    lines: list[Text] = []
    for part in some:
        lines += [*(gap if lines else []), *part]
    return lines


def _top(seen: Status, width: int, note: str) -> Text:
    nodes = seen.nodes
    count = "nodes not known" if nodes is None else counted(len(nodes), "node")
    left = f"smsengine  {count}"
    right = "q quits"
    line = Text(left, style=_HEAD)
    if note:
        line.append(f"  {note}", style=_ILL)
    line.append(" " * max(1, width - cell_len(line.plain) - len(right)))
    return line.append(right, style=_DIM)


def _row(columns: Sequence[tuple[str, int]], cells: Sequence[str], style: str = "") -> Text:
    first, *rest = (
        set_cell_size(cell, size) if not place else cell.rjust(size - 1)[: size - 1] + " "
        for place, (cell, (_, size)) in enumerate(zip(cells, columns, strict=True))
    )
    return Text("".join([first, *rest]).rstrip(), style=style)


def _titles(columns: Sequence[tuple[str, int]]) -> Text:
    return _row(columns, [title for title, _ in columns], _DIM)


def _queues(seen: Status, width: int) -> list[Text]:
    """What is in each queue, and its last minutes as bars; those are left out with a width of 0."""
    lines = [_titles(_QUEUE)]
    flow, states = seen.flow, seen.queues
    for queue in ("express", "normal"):
        rates = flow.queues.get(queue) if flow else None
        state = states.get(queue) if states else None
        moving = [_UNKNOWN] * 2 if rates is None else [rate(rates.in_per_s), rate(rates.out_per_s)]
        lying = [_UNKNOWN] * 4
        if state is not None:
            lying = [short(state.waiting), short(state.in_hand), short(state.due), time_of(state.oldest_ms)]
        times = [_UNKNOWN] * 2 if rates is None else [_ms(rates.p50_ms), _ms(rates.p99_ms)]
        dead = state.dead if state else 0
        line = _row(_QUEUE, [queue, *moving, *lying, *times])
        lines.append(line.append(f" {number(dead)} set aside", style=_ILL) if dead else line)
        if width and rates is not None and flow is not None:
            lines.append(_history(rates.ins, rates.outs, flow.step_s, width))
    return lines


def _history(ins: Sequence[float], outs: Sequence[float], step_s: int, width: int) -> Text:
    """Both histories at the same scale, the newest at the right of each."""
    points = max(5, min(60, (width - 28) // 2))
    top = max([*ins[-points:], *outs[-points:], 1.0])
    long = show.span(points * step_s * 1000)
    line = Text("  in ", style=_DIM).append(spark(ins, points, top), style="cyan")
    line.append("  out ", style=_DIM).append(spark(outs, points, top), style="green")
    return line.append(f"  {long}, to {rate(top)}", style=_DIM)


def _credit(seen: Status) -> Text:
    line = Text("credit  ", style=_DIM)
    if seen.flow is None:
        return line.append(_UNKNOWN)
    credit = seen.flow.credit
    parts = [
        f"{rate(credit.get(what, 0.0))} {what}/s" for what in ("submissions", "grants", "waits", "refusals")
    ]
    line.append("   ".join(parts), style="")
    return line


def _behind(seen: Status) -> Text:
    def entries(what: str, waiting: int, oldest_ms: int) -> str:
        return f"{what} {short(waiting)} {'batch' if waiting == 1 else 'batches'}, {time_of(oldest_ms)}"

    ledger, activity, receipts = seen.ledger, seen.activity, seen.receipts
    parts = [
        f"books {_UNKNOWN}" if ledger is None else f"books {time_of(ledger.lag_ms)}",
        f"archive {_UNKNOWN}"
        if activity is None
        else entries("archive", activity.waiting_entries, activity.oldest_ms),
        f"receipts {_UNKNOWN}"
        if receipts is None
        else entries("receipts", receipts.waiting_entries, receipts.oldest_ms),
    ]
    return Text("behind  ", style=_DIM).append("   ".join(parts), style="")


def _wrapped(sentence: str, width: int, style: str) -> list[Text]:
    """The sentence in as many lines as it needs."""
    return [Text(line, style=style) for line in wrap(sentence, max(width, 20), subsequent_indent="  ")]


def _missing(seen: Status) -> list[str]:
    """What is not known, by why."""
    by_reason: dict[str, list[str]] = {}
    for what, why in seen.missing.items():
        by_reason.setdefault(why, []).append(what.replace("_", " "))
    return [f"{', '.join(parts)}: {why}" for why, parts in by_reason.items()]


def _providers(flow: Flow | None) -> list[Text]:
    if flow is None or not flow.providers:
        return []
    lines = [_titles(_PROVIDER).append(" breaker", style=_DIM)]
    for name, one in flow.providers.items():
        limit = "" if one.throughput is None else rate(one.throughput)
        cells = [name, rate(one.sends_per_s), limit, short(one.in_flight), short(one.waiting),
                 _ms(one.p50_ms), _ms(one.p99_ms), rate(one.receipts_per_s)]  # fmt: skip
        state, ill = _breaker(one)
        lines.append(_row(_PROVIDER, cells).append(f" {state}", style=_ILL if ill else ""))
    return lines


def _breaker(one: ProviderRates) -> tuple[str, bool]:
    """Its breakers, and whether any keeps messages from it."""
    if one.paused:
        return "paused", True
    workers = sum(one.circuits.values())
    shut = {state: count for state, count in one.circuits.items() if state != "closed"}
    if not shut:
        return "closed" if workers else _UNKNOWN, False
    return ", ".join(f"{state} {count}/{workers}" for state, count in sorted(shut.items())), True


def _node(rows: NodeRows, width: int, now_us: int) -> list[Text]:
    """The title of a node and its processes."""
    well = rows.node is None or rows.node.seen == "running"
    ready = sum(_is_well(process) for process, _ in rows.processes)
    count = f", {ready} of {len(rows.processes)} ready" if rows.processes else ""
    lines = [Text(rows.title + count, style=_HEAD if well else _ILL), *scaled(rows.node, now_us)]
    if not rows.processes:
        return lines
    # Those that need attention come first, so that they are not cut away.
    ordered = sorted((process for process, _ in rows.processes), key=_is_well)
    cells = [_process(process, now_us) for process in ordered]
    if width < _WIDE:
        return [*lines, _titles(_PROCESS), *cells]
    half = width // 2
    left, right = cells[: (len(cells) + 1) // 2], cells[(len(cells) + 1) // 2 :]
    lines.append(_beside(_titles(_PROCESS), _titles(_PROCESS) if right else Text(), half))
    for place, one in enumerate(left):
        lines.append(_beside(one, right[place] if place < len(right) else Text(), half))
    return lines


def _beside(left: Text, right: Text, half: int) -> Text:
    left.truncate(half - 1, overflow="ellipsis")
    left.append(" " * (half - cell_len(left.plain)))
    return left.append_text(right) if right.plain else left


def _is_well(one: NodeProcess) -> bool:
    return bool(one.pid) and not one.degraded and one.state == "ready"


def _process(one: NodeProcess, now_us: int) -> Text:
    cells = [
        f"{one.role} {one.index}",
        one.state if one.pid else "no process",
        time_of(max(0, now_us - one.since_us) // 1000) if one.since_us else "",
        f"{one.cpu_percent:.0f} %" if one.memory_mb else "",
        f"{short(one.memory_mb)} MB" if one.memory_mb else "",
        str(one.generation),
        str(one.restarts),
    ]
    line = _row(_PROCESS, cells, _ILL if one.degraded or not one.pid else "")
    return line.append(f"  degraded: {one.last_words}", style=_ILL) if one.degraded else line


def _cut(lines: list[Text], room: int, what: str) -> list[Text]:
    """The first of the lines; where not all fit, the last one says how many are left out."""
    if len(lines) <= room:
        return lines
    room = max(room, 1)
    return [*lines[: room - 1], Text(f"  {len(lines) - room + 1} {what} more", style=_DIM)]


def _fitting(nodes: list[list[Text]], room: int) -> list[Text]:
    """The lines of all nodes. Where not all fit, those of each are cut, the longest first."""
    sizes = [len(node) for node in nodes]
    while sum(sizes) > room and max(sizes, default=0) > 1:
        sizes[sizes.index(max(sizes))] -= 1
    found: list[Text] = []
    for node, size in zip(nodes, sizes, strict=True):
        if size < 4 and size < len(node):
            # Without the line of titles, which says nothing by itself.
            node = [node[0], *node[2:]]
        found += _cut(node, size, "lines") if size > 1 else node[:1]
    return _cut(found, room, "lines")


def rate(per_s: float) -> str:
    """A number a second, in a few digits."""
    return f"{per_s:.1f}" if 0 < per_s < 10 else short(round(per_s))


def short(count: int) -> str:
    """A whole number in at most six characters: 12,345, 1.2 M."""
    if count < 100_000:
        return number(count)
    for size, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (1000, "k")):
        if count >= size:
            return f"{count / size:.1f} {unit}" if count < 100 * size else f"{count // size} {unit}"
    return number(count)


def time_of(ms: float) -> str:
    """A length of time in a few characters."""
    return f"{ms / 1000:.1f} s" if 1000 <= ms < 10_000 else show.span(int(ms))


def _ms(ms: float | None) -> str:
    return "-" if ms is None else time_of(ms)
