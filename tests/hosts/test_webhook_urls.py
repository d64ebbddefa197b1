"""Which addresses webhooks may reach, whatever they are written as."""

from __future__ import annotations

import pytest

from engine.hosts.webhook_urls import is_public, names_private_address, target_of


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
     "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1", "::1", "::", "fe80::1",
     "fe80::1%eth0",
     "fc00::1", "fd12::1", "ff02::1", "fec0::1", "::ffff:127.0.0.1", "::ffff:192.168.0.1", "::127.0.0.1",
     "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:c0a8:1::1",
     "2001:0:0:0:0:0:3f57:fefe",
     "::ffff:0:127.0.0.1", "5f00::1", "3fff::1", "168.63.129.16",
     "2001:db8::1", "no address", ""],
)  # fmt: skip
def test_what_is_not_of_the_internet_is_not_reached(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"],
)
def test_what_is_of_the_internet_is_reached(address: str) -> None:
    assert is_public(address)


def test_a_url_is_taken_apart() -> None:
    target = target_of("https://example.com/a/b?c=d&e")
    assert target is not None
    assert (target.host, target.port, target.tls, target.path) == ("example.com", 443, True, "/a/b?c=d&e")
    assert target.origin == "https://example.com:443"
    plain = target_of("http://[2606:4700::1111]:8080")
    assert plain is not None
    assert (plain.host, plain.port, plain.tls, plain.path) == ("2606:4700::1111", 8080, False, "/")


@pytest.mark.parametrize(
    "wrong",
    ["", "example.com", "//example.com", "https:///a", "https://exa mple.com", "https://a..b", "http://a:99999",
     "https://example.com\r\nHost: b", "https://example.com/" + "a" * 2000, "https://[::1%25eth0]/", "https://a_b;c/",
     "http://2130706433/", "http://127.1/", "http://0x7f.1/", "http://127.0.0.1./", "http://017700000001/",
     "http://1.2.3.4.5/"],
)  # fmt: skip
def test_what_is_no_url_of_a_webhook_is_refused(wrong: str) -> None:
    assert target_of(wrong) is None


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/", "http://[::1]/", "http://localhost/", "http://localhost./", "http://A.LOCALHOST/"],
)
def test_a_url_that_names_a_private_address_is_known_before_it_is_reached(url: str) -> None:
    target = target_of(url)
    assert target is not None
    assert names_private_address(target)
