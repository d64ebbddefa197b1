"""Which idle connection is closed for a new one, whoever opens connections and whatever he sends on them."""

from __future__ import annotations

from engine.api.edge.room import Room, Seat

MOST = 16
# So many silent ones may stay.
SHARE = 4


class Client:
    """A connection, as the room sees it."""

    def __init__(self, room: Room) -> None:
        self.is_open, self.is_busy = True, False
        self.seat: Seat = room.enter(self)

    def end_if_idle(self) -> bool:
        self.is_open = self.is_open and self.is_busy
        return not self.is_busy

    def asks(self, *, with_key: bool) -> None:
        assert self.is_open
        self.seat.answered(with_key=with_key)


def filled(room: Room, count: int, *, with_key: bool) -> list[Client]:
    """`count` connections that have sent a request."""
    clients = [Client(room) for _ in range(count)]
    for client in clients:
        client.asks(with_key=with_key)
    return clients


def are_open(clients: list[Client]) -> list[bool]:
    return [client.is_open for client in clients]


def test_those_who_say_nothing_push_out_one_another_however_long_the_senders_idle() -> None:
    room = Room(MOST)
    senders = filled(room, MOST - SHARE, with_key=True)
    silent = [Client(room) for _ in range(1000)]
    assert are_open(senders) == [True] * len(senders)
    assert are_open(silent) == [False] * (1000 - SHARE) + [True] * SHARE
    assert room.count == MOST


def test_requests_without_a_good_key_push_out_one_another_too() -> None:
    room = Room(MOST)
    senders = filled(room, MOST - SHARE - 1, with_key=True)
    for _ in range(1000):
        Client(room).asks(with_key=False)
    assert are_open(senders) == [True] * len(senders)
    assert room.count == MOST


def test_a_key_that_is_no_longer_good_counts_no_more() -> None:
    room = Room(MOST)
    senders = filled(room, MOST, with_key=True)
    senders[7].asks(with_key=False)
    Client(room)
    assert [n for n, client in enumerate(senders) if not client.is_open] == [7]


def test_where_all_send_a_newcomer_takes_the_room_of_the_one_idle_longest_and_has_time_to_send() -> None:
    room = Room(MOST)
    senders = filled(room, MOST, with_key=True)
    senders[0].asks(with_key=True)
    newcomers = [Client(room) for _ in range(SHARE)]
    assert are_open(senders) == [True] + [False] * SHARE + [True] * (MOST - SHARE - 1)
    for newcomer in newcomers:
        newcomer.asks(with_key=True)
    assert room.count == MOST


def test_one_at_work_is_never_closed_and_idles_anew_behind_its_answer() -> None:
    room = Room(MOST)
    at_work = filled(room, MOST, with_key=True)
    for client in at_work:
        client.is_busy = True
    more = [Client(room) for _ in range(3)]
    assert are_open(at_work + more) == [True] * MOST + [False, False, True]
    assert room.count == MOST + 1
    for client in at_work:
        client.is_busy = False
        client.asks(with_key=True)
    # All that are too many go with the next one.
    Client(room)
    assert are_open(at_work) == [False] * 2 + [True] * (MOST - 2)
    assert room.count == MOST


def test_who_leaves_makes_room_once_whatever_is_heard_of_him_afterwards() -> None:
    room = Room(MOST)
    clients = filled(room, MOST, with_key=True)
    for client in clients:
        client.seat.leave()
        client.seat.leave()
        client.seat.answered(with_key=True)
    assert room.count == 0
    assert not room.known
