"""What many submits come to in one call is what each comes to alone."""

from __future__ import annotations

from uuid import UUID

from hypothesis import example, given
from hypothesis import strategies as st

from engine.providers.smpp.body import ShortMessage, decode_short_message, encode_short_message
from engine.providers.smpp.codes import Command, Tag
from engine.providers.smpp.pdu import Pdu, Reader, WrongPdu, pack
from supervisor.simulator.behaviour import Behaviour
from supervisor.simulator.provider import SimulatedProvider
from supervisor.simulator.submit import MESSAGE_ID_TAG, identity

SUBMIT, ANSWER = int(Command.submit_sm), int(Command.submit_sm_resp)
OTHER = pack(int(Command.enquire_link), 0, 7)
TAGS = [MESSAGE_ID_TAG, 0x1400, Tag.user_message_reference, Tag.sar_msg_ref_num, Tag.message_payload]
UUIDS = [str(UUID(int=n << 77 | n)) for n in (1, 2, 0xABCDEF)]

names = st.one_of(
    st.sampled_from([*UUIDS, UUIDS[2].upper(), UUIDS[0].replace("-", "0"), "m-1\0", "\0", "", "é" * 36]),
    st.text(st.characters(max_codepoint=255), max_size=40),
).map(lambda name: name.encode("latin-1"))
parameters = st.one_of(
    st.just({}),
    st.dictionaries(st.just(MESSAGE_ID_TAG), names),
    st.dictionaries(st.sampled_from(TAGS), st.one_of(names, st.binary(max_size=3))),
)
messages = st.builds(
    ShortMessage,
    source=st.sampled_from(["", "Acme", "989120000000"]),
    destination=st.sampled_from(["", "989121000001", "989121000002", "é"]),
    esm_class=st.sampled_from([0, 0, 0, 3, 0x40]),
    validity_period=st.sampled_from(["", "000001000000000R"]),
    registered_delivery=st.sampled_from([0, 1]),
    short_message=st.one_of(st.binary(max_size=200), st.sampled_from([b"\5\0\3\7\2\1", b"Hello"])),
    parameters=parameters,
)  # fmt: skip
bodies = st.one_of(
    messages.map(encode_short_message),
    # Octets too many or too few at the end, and no body at all.
    st.builds(bytes.__add__, messages.map(encode_short_message), st.binary(max_size=5)),
    st.builds(
        lambda body, octets: body[: -octets or None], messages.map(encode_short_message), st.integers(0, 90)
    ),
    st.binary(max_size=40),
)
pdus = st.one_of(
    st.builds(pack, st.just(SUBMIT), st.sampled_from([0, 3]), st.integers(0, 0xFFFFFFFF), bodies),
    st.just(OTHER),
)


def alone(provider: SimulatedProvider, pdu: Pdu) -> bytes:
    """Take one submit the long way: its answer, b"" for one that cannot be read."""
    try:
        message = decode_short_message(pdu.body)
    except WrongPdu:
        return b""
    fate, delay_s, message_id = provider.take_segment("demo", message, 1.0)
    assert (fate, delay_s) == ("accepted", 0.0)
    return pack(ANSWER, 0, pdu.sequence, message_id.encode() + b"\0")


def counted(provider: SimulatedProvider) -> tuple[object, ...]:
    counts, further, flow = provider.counts, provider.further, provider.flow
    own = [(c.received, c.distinct, c.ids(), c.repeated()) for c in (counts, further)]
    return *own, flow.segments, flow.second_max, flow.per_second(1.0), provider.fates


def is_simple(body: bytes) -> bool:
    """Whether nothing about it is out of the ordinary: it has to go the short way."""
    try:
        message = decode_short_message(body)
    except WrongPdu:
        return False
    whole = encode_short_message(message) == body and not message.esm_class & 0x40
    texts = message.destination + message.parameters.get(MESSAGE_ID_TAG, b"").decode("latin-1")
    return whole and texts.isascii() and all(tag >= 0x1400 for tag in message.parameters)


@given(st.lists(pdus, max_size=12), st.integers(0, 20))
@example(
    [
        pack(SUBMIT, 0, n, encode_short_message(message))
        for n, message in enumerate(
            [
                ShortMessage(destination="98912", esm_class=0x40, short_message=b"\5\0\3\7\2\2Hi"),
                ShortMessage(destination="98912", parameters={int(Tag.sar_msg_ref_num): b"\0\7"}),
                ShortMessage(destination="98912", parameters={MESSAGE_ID_TAG: UUIDS[0].encode() + b"\0"}),
                ShortMessage(destination="98912", parameters={MESSAGE_ID_TAG: UUIDS[2].upper().encode()}),
            ]
        )
    ],
    0,
)
@example(
    [pack(SUBMIT, 0, n, encode_short_message(ShortMessage(short_message=b"x" * n))) for n in range(9)], 0
)
def test_submits_taken_at_once_come_to_the_same(stream: list[bytes], cut: int) -> None:
    chunk = b"".join(stream)
    chunk = chunk[: len(chunk) - cut]
    many, each = (SimulatedProvider(Behaviour()) for _ in range(2))
    each._next_id = many._next_id
    reader, at, answers, expected = Reader(), 0, b"", b""
    chunk = reader.begin(chunk)
    while True:
        before = at
        at, taken, octets = many.take_plain(chunk, at, 1.0)
        answers += octets
        run = [pdu for pdu in Reader().feed(chunk[before:at]) if isinstance(pdu, Pdu)]
        assert len(run) == taken
        for pdu in run:
            assert pdu.command_id == SUBMIT
            assert identity(decode_short_message(pdu.body))[1] == 1
            expected += alone(each, pdu)
        left = reader.cut(chunk, at)
        if not isinstance(left, Pdu):
            break
        at += 16 + len(left.body)
        if left.command_id == SUBMIT:
            assert not is_simple(left.body)
            assert alone(many, left) == alone(each, left)
    assert answers == expected
    assert counted(many) == counted(each)


def test_none_is_taken_at_once_while_anything_is_drawn() -> None:
    chunk = pack(SUBMIT, 0, 1, encode_short_message(ShortMessage(destination="98912")))
    provider = SimulatedProvider(Behaviour())
    assert provider.take_plain(chunk, 0, 1.0)[:2] == (len(chunk), 1)
    for change in (b'{"latency": {"constant_ms": 5}}', b'{"throughput": 3}', b'{"outage": true}'):
        provider = SimulatedProvider(Behaviour())
        provider.change(change)
        assert provider.take_plain(chunk, 0, 1.0) == (0, 0, b"")
        assert not provider.counts.received
