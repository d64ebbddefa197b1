"""From which address a request comes: what `Forwarded` and `X-Forwarded-For` are believed."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.api.client_address import TrustedProxies
from engine.networks import address_of, network_of, networks_of

PROXIES = TrustedProxies(["10.0.0.0/8", "fd00::/8"])
# A header as aiohttp or the edge lets one through.
WILD = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60) | st.lists(
    st.sampled_from(
        ["for=", "1.1.1.1", '"', ",", ";", "\\", " ", "[2001:db8::1]", "by=x", "=", "unknown", ":80"]
    )
).map("".join)
OUTSIDE = (st.ip_addresses(v=4) | st.ip_addresses(v=6)).filter(
    lambda a: PROXIES.client("10.0.0.1", [], [str(a)]) not in ("", "10.0.0.1")
)
INSIDE = st.ip_addresses(network="10.0.0.0/8") | st.ip_addresses(network="fd00::/8")


def node(address: object, port: str = "") -> str:
    """The address as a proxy writes it into `Forwarded`."""
    text = f"[{address}]" if ":" in str(address) else str(address)
    return f'for="{text}{port}"' if ":" in text or port else f"for={text}"


def shortest(address: object) -> str:
    return str(address_of(str(address)))


@given(OUTSIDE, st.lists(INSIDE, max_size=3), st.sampled_from(["", ":443", ":_port"]))
def test_the_rightmost_address_that_is_no_proxy_is_the_client(
    client: object, between: list[object], port: str
) -> None:
    forwarded = ", ".join([node(client, port), *map(node, between)])
    x_forwarded_for = ", ".join(map(str, [client, *between]))
    for found in (
        PROXIES.client("10.1.2.3", [forwarded], []),
        PROXIES.client("10.1.2.3", forwarded.split(", "), []),
        PROXIES.client("10.1.2.3", [], [x_forwarded_for]),
        PROXIES.client("10.1.2.3", [], x_forwarded_for.split(", ")),
        PROXIES.client("10.1.2.3", [forwarded], [x_forwarded_for]),
    ):
        assert found == shortest(client)


@given(WILD, OUTSIDE, st.sampled_from(["", ";by=10.0.0.1", ';by="[fd00::1]:80";proto=https']))
def test_what_a_client_writes_before_it_names_nobody_else(wild: str, client: object, more: str) -> None:
    """A proxy adds to what came, in the same header or in one behind it."""
    added = node(client) + more
    for forwarded in ([f"{wild}, {added}"], [wild, added]):
        assert PROXIES.client("10.0.0.1", forwarded, []) in (shortest(client), "10.0.0.1")
    for x_forwarded_for in ([f"{wild}, {client}"], [wild, str(client)]):
        assert PROXIES.client("10.0.0.1", [], x_forwarded_for) == shortest(client)
        # A proxy that writes one header and passes the other on as it came.
        assert PROXIES.client("10.0.0.1", [wild], x_forwarded_for) in (shortest(client), "10.0.0.1")
    assert PROXIES.client("10.0.0.1", [added], [wild]) in (shortest(client), "10.0.0.1")


@given(OUTSIDE, WILD, WILD)
def test_a_peer_that_is_no_trusted_proxy_is_the_client_whatever_it_writes(
    peer: object, forwarded: str, x_forwarded_for: str
) -> None:
    assert PROXIES.client(str(peer), [forwarded], [x_forwarded_for]) == shortest(peer)
    assert TrustedProxies().client("10.0.0.1", [forwarded], [x_forwarded_for]) == "10.0.0.1"


@pytest.mark.parametrize(
    "forwarded",
    [
        "", ",", "for", "for=", "for=unknown", "for=_hidden", "for=9.9.9.999", "for=[2001:db8::1]",
        "x=1.1.1.1",
        'for="9.9.9.9', 'for="9.9.9.9"x', "for=9.9.9.9 8.8.8.8", "for=9.9.9.9;for=8.8.8.8",
        "for=9.9.9.9, by=x",
        "for=10.0.0.2", "for=9.9.9.9, for=10.0.0.300", 'for="9.9.9.9:99999999"', 'for="fe80::1%eth0"',
        "for=09.9.9.9", "for = 9.9.9.9",
    ],
)  # fmt: skip
def test_a_forwarded_that_names_no_client_leaves_the_peer(forwarded: str) -> None:
    assert PROXIES.client("10.0.0.1", [forwarded], []) == "10.0.0.1"


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("For=9.9.9.9", "9.9.9.9"),
        ('FOR="9.9.9.9:80" ; proto=https', "9.9.9.9"),
        ('for="[2001:DB8:0::9]:_x"', "2001:db8::9"),
        ("for=1.1.1.1,,for=9.9.9.9;;by=x,", "9.9.9.9"),
        (r'for="9.9\.9.9"', "9.9.9.9"),
        ('by="a,for=1.1.1.1";for=9.9.9.9', "9.9.9.9"),
        ('for="::ffff:9.9.9.9"', "9.9.9.9"),
    ],
)
def test_a_forwarded_is_read_as_its_standard_says(forwarded: str, client: str) -> None:
    assert PROXIES.client("::ffff:10.0.0.1", [forwarded], []) == client


@pytest.mark.parametrize("value", ["unknown", "9.9.9.9, x", "9.9.9.9, 10.0.0.2, ?", "", " , ", "10.0.0.2"])
def test_an_x_forwarded_for_that_names_no_client_leaves_the_peer(value: str) -> None:
    assert PROXIES.client("10.0.0.1", [], [value]) == "10.0.0.1"


def test_headers_that_disagree_and_a_peer_that_nobody_knows_name_no_client() -> None:
    assert PROXIES.client("10.0.0.1", ["for=9.9.9.9"], ["8.8.8.8"]) == "10.0.0.1"
    assert PROXIES.client("", ["for=9.9.9.9"], ["9.9.9.9"]) == ""
    assert PROXIES.client("fe80::1%eth0", [], []) == "fe80::1"


@given(st.ip_addresses())
def test_each_network_has_one_form_and_no_bits_behind_its_prefix(address: object) -> None:
    assert networks_of([str(address)] * 2) == (network_of(str(address)),)
    text = f"{address}/8"
    kept = network_of(text)
    is_plain = int(ipaddress.ip_interface(text).network.network_address) == int(address)  # type: ignore[call-overload]
    assert (kept is not None) == is_plain


@pytest.mark.parametrize(
    "text",
    ["", "x", "10.0.0.0/33", "10.0.0.0/255.0.0.0", "10.0.0.0/", "fe80::1%1", "10.0.0.0 /8", "1/8", "١.1.1.1"],
)
def test_what_is_no_network_is_none(text: str) -> None:
    assert network_of(text) is None
    assert networks_of(["10.0.0.0/8", text]) is None
    assert networks_of(["10.0.0.0/8"] * 101) is None
    assert str(network_of("::ffff:10.0.0.0/104")) == "10.0.0.0/8"
