"""Applications that speak to Twilio or Kannel move over by a change of URL and password. Twilio's own
library is the caller."""

from __future__ import annotations

import base64
import urllib.error
import urllib.parse
import urllib.request

import pytest
from twilio.base.exceptions import TwilioRestException
from twilio.rest import Client

from tests.openapi.documented import Documented, Organisation
from tests.system.client import eventually

ACCOUNT = "AC00000000000000000000000000000001"
NUMBER = "+4915112345678"


@pytest.fixture(scope="module")
def of(documented: Documented) -> Organisation:
    return documented.organisation()


def client(documented: Documented, key: str) -> Client:
    made = Client(ACCOUNT, key)
    made.api.base_url = documented.compatible_url
    return made


def test_twilios_library_sends_a_message_and_follows_it(documented: Documented, of: Organisation) -> None:
    twilio = client(documented, of.api_key)
    sent = twilio.messages.create(to=NUMBER, from_="ACME", body="Your code is 123456", validity_period=60)
    assert (sent.to, sent.from_, sent.body) == (NUMBER, "ACME", "Your code is 123456")
    assert (sent.status, sent.num_segments, sent.account_sid) == ("queued", "1", ACCOUNT)
    assert sent.sid is not None
    assert sent.date_created is not None
    fetched = eventually(
        lambda: (found := twilio.messages(sent.sid).fetch()).status in ("sent", "delivered") and found
    )
    assert (fetched.sid, fetched.to, fetched.date_created) == (sent.sid, NUMBER, sent.date_created)
    # The message is ours, too.
    ours = sent.sid[2:]
    ours = f"{ours[:8]}-{ours[8:12]}-{ours[12:16]}-{ours[16:20]}-{ours[20:]}"
    assert documented.public("GET", f"/v1/messages/{ours}", None, of.api_key)["from"] == "ACME"


@pytest.mark.parametrize(
    ("fields", "code", "status"),
    [
        ({"to": "015112345678"}, 21211, 400),
        ({"body": ""}, 21602, 400),
        ({"from_": "a sender that is too long"}, 21212, 400),
        ({"media_url": ["http://127.0.0.1/picture"]}, 21609, 400),
        ({"status_callback": "http://127.0.0.1/"}, 21609, 400),
        ({"validity_period": 0}, 21609, 400),
    ],
)
def test_twilios_library_is_told_what_is_refused(
    documented: Documented, of: Organisation, fields: dict[str, object], code: int, status: int
) -> None:
    message = {"to": NUMBER, "from_": "ACME", "body": "hello"} | fields
    with pytest.raises(TwilioRestException) as refused:
        client(documented, of.api_key).messages.create(**message)  # type: ignore[arg-type]
    assert (refused.value.code, refused.value.status) == (code, status)


def test_twilios_library_is_told_of_a_wrong_key_and_of_credit_that_is_missing(documented: Documented) -> None:
    with pytest.raises(TwilioRestException) as refused:
        client(documented, "smse_1_" + "x" * 43).messages.create(to=NUMBER, body="x")
    assert (refused.value.code, refused.value.status) == (20003, 401)
    poor = documented.admin("POST", "/organisations", {"name": "poor"})
    with pytest.raises(TwilioRestException) as refused:
        client(documented, poor["api_key"]).messages.create(to=NUMBER, body="x")
    assert (refused.value.code, refused.value.status) == (30002, 402)


def test_an_account_sees_no_message_of_another(documented: Documented, of: Organisation) -> None:
    sent = client(documented, of.api_key).messages.create(to=NUMBER, body="x")
    other = client(documented, documented.organisation().api_key)
    assert sent.sid is not None
    for sid in (sent.sid, f"{sent.sid[:-1]}0", "SMx"):
        with pytest.raises(TwilioRestException) as refused:
            other.messages(sid).fetch()
        assert (refused.value.code, refused.value.status) == (20404, 404)


def kannel(
    documented: Documented, post: bool = False, **parameters: str | bytes | list[str]
) -> tuple[int, str]:
    query = urllib.parse.urlencode({"username": "acme", **parameters}, doseq=True)
    url = f"{documented.compatible_url}/cgi-bin/sendsms"
    request = (
        urllib.request.Request(url, query.encode()) if post else urllib.request.Request(f"{url}?{query}")
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


def test_kannels_sendsms_is_understood(documented: Documented, of: Organisation) -> None:
    key = of.api_key
    for post in (False, True):
        sent = kannel(documented, post, password=key, to="4915112345678", text="Grüße", **{"from": "ACME"})
        assert sent == (202, "0: Accepted for delivery")
    utf_16 = {"coding": "2", "text": "سلام".encode("utf-16-be")}
    assert kannel(documented, password=key, to="00989121234567", **utf_16) == (
        202,
        "0: Accepted for delivery",
    )
    latin = {"charset": "iso-8859-1", "text": "Grüße".encode("latin-1")}
    assert kannel(documented, password=key, to=NUMBER, **latin) == (202, "0: Accepted for delivery")
    later = kannel(documented, password=key, to=NUMBER, text="later", deferred="60", validity="5")
    assert later == (202, "3: Queued for later delivery")
    several = kannel(documented, password=key, to=f"{NUMBER} 12", text="two")
    assert several[0] == 202
    assert several[1].startswith("0: Accepted for delivery\nDenied receiver 2: ")
    shown = documented.admin("GET", f"/organisations/{of.id}/balance")
    assert shown["posted"] <= 1_000_000


def test_kannels_refusals_are_understood(documented: Documented, of: Organisation) -> None:
    key = of.api_key
    assert kannel(documented, password="no", to=NUMBER, text="x") == (403, "Authorization failed for sendsms")
    assert kannel(documented, password=key, text="x") == (400, "Missing receiver number, rejected")
    assert kannel(documented, password=key, to=NUMBER) == (400, "Missing text, rejected")
    assert kannel(documented, password=key, to="12", text="x")[0] == 422
    for name, value in (("udh", "%06"), ("dlr-url", "http://127.0.0.1/"), ("coding", "1"), ("validity", "x")):
        status, text = kannel(documented, password=key, to=NUMBER, text="x", **{name: value})
        assert status == 400, (name, text)
    assert kannel(documented, password=key, to=NUMBER, text=b"\xff")[0] == 400


@pytest.mark.parametrize("charset", ["punycode", "undefined", "idna", "unicode_escape", "utf-8\0", "none"])
def test_what_is_no_charset_is_refused(documented: Documented, of: Organisation, charset: str) -> None:
    sent = kannel(documented, password=of.api_key, to=NUMBER, text="xn--caf-dma..b", charset=charset)
    assert sent == (400, "The charset is not known, rejected")


def test_a_text_of_megabytes_is_refused_without_being_measured_for_each_recipient(
    documented: Documented, of: Organisation
) -> None:
    numbers = " ".join([NUMBER] * 1_000)
    sent = kannel(documented, True, password=of.api_key, to=numbers, text="x" * 1_000_000)
    assert sent == (422, "`text` must be at most 10 segments; this text has 1000000 characters.")


@pytest.mark.parametrize("of_twilio", [False, True])
def test_who_is_over_a_limit_is_told_when_to_come_again(documented: Documented, of_twilio: bool) -> None:
    of = documented.organisation()
    documented.admin("PATCH", f"/organisations/{of.id}/limits", {"rate_max": 0.1})
    url, form = (
        f"{documented.compatible_url}/cgi-bin/sendsms",
        {"password": of.api_key, "to": NUMBER, "text": "x"},
    )
    key = base64.b64encode(f"AC1:{of.api_key}".encode()).decode()
    if of_twilio:
        url = f"{documented.compatible_url}/2010-04-01/Accounts/AC1/Messages.json"
        form = {"To": NUMBER, "Body": "x"}
    request = urllib.request.Request(
        url, urllib.parse.urlencode(form).encode(), {"Authorization": f"Basic {key}"}
    )

    def over() -> str | None:
        try:
            urllib.request.urlopen(request, timeout=60).close()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.headers["Retry-After"] if refused.code == 429 else None
        return None

    assert int(eventually(over)) >= 1


@pytest.mark.parametrize("post", [False, True])
def test_a_parameter_that_stands_twice_is_refused(
    documented: Documented, of: Organisation, post: bool
) -> None:
    sent = kannel(documented, post, password=of.api_key, to=[NUMBER, "4915112345679"], text="x")
    assert sent == (400, "Parameter to must be given once.")
    url = f"{documented.compatible_url}/2010-04-01/Accounts/AC1/Messages.json"
    form = urllib.parse.urlencode({"To": ["+4915112345678", "+4915112345679"], "Body": "x"}, doseq=True)
    key = base64.b64encode(f"AC1:{of.api_key}".encode()).decode()
    request = urllib.request.Request(url, form.encode(), {"Authorization": f"Basic {key}"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    with refused.value:
        assert refused.value.code == 400


def test_nothing_else_is_at_that_address(documented: Documented) -> None:
    for path in ("/v1/messages", "/cgi-bin/", "/2010-04-01/Accounts.json", "/docs"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{documented.compatible_url}{path}", timeout=60)
        refused.value.close()
        assert refused.value.code == 404
