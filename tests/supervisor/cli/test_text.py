"""What is said of a command line that is wrong."""

from __future__ import annotations

import pytest

from engine.errors import ConfigError
from supervisor.cli import org_limits
from supervisor.cli.text import command_sentence, usage_sentence

# How each limit of an organisation is read.
READ = {
    "weight": org_limits._weight,
    "backlog_max": org_limits._count,
    "rate_max": org_limits._rate,
}


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Invalid value for '--limit': Input should be a valid integer, unable to parse string as an integer",
         "--limit must be a whole number."),
        ("Invalid value for '--interval': Input should be a valid number, unable to parse string as a number",
         "--interval must be a number."),
        ("Invalid value for 'ID': Input should be greater than or equal to 1", "ID must be 1 or more."),
        ("Invalid value for '--give': Input should be less than or equal to 9", "--give must be 9 or less."),
        ("Invalid value for '--queue': Value error, 'x' is not one of 'express', 'normal'.",
         "--queue must be one of express, normal."),
        ("Invalid value: Say either --give or --take.", "Say either --give or --take."),
        ("Missing option '--scope'", "Missing option '--scope'"),
        ("Got unexpected extra argument(s) (2 3)", "Too many arguments: 2 3."),
        ("Got unexpected extra argument (2)", "Too many arguments: 2."),
        ("No such option: -5", "A number here must not be below 0, as -5 is."),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_command_line_is_said_without_the_words_of_a_library(
    said: str, meant: str
) -> None:
    assert usage_sentence(said) == meant


def test_what_the_api_says_of_a_field_is_said_of_the_option_that_was_given() -> None:
    zone = "`time_zone` must be an IANA name, such as Europe/Berlin."
    assert command_sentence(zone, ["report", "--time-zone=Mars"], {}).startswith(
        "--time-zone must be an IANA"
    )
    assert command_sentence(zone, ["report"], {}) == zone
    grouped = "`group_by` must be some of status, queue, with commas between."
    assert command_sentence(grouped, ["report", "--by", "x"], {}).startswith("--by must be some of")
    last = "The node a cannot be drained; use `force` to do it nevertheless."
    assert command_sentence(last, ["node", "drain"], {"force": "--force"}) == (
        "The node a cannot be drained; use --force to do it nevertheless."
    )
    assert command_sentence(last, ["node", "drain"], {}) == last
    longest = "The period of a report must not be longer than 31 days; use `from_time` for a shorter one."
    assert command_sentence(longest, ["report"], {}).endswith("; use --since for a shorter one.")
    one = "A report by reference must be that of one organisation: use `organisation`."
    assert command_sentence(one, ["report"], {"organisation": "--organisation"}).endswith(
        "use --organisation."
    )
    back = "`rate_max` must be from 0.1 to 1000 messages a second, or null: no limit."
    assert command_sentence(back, ["--rate-max", "0/s"], {}) == (
        "--rate-max must be from 0.1 to 1000 messages a second, or none."
    )
    names = {"action": "ACTION", "events": "--event"}
    assert command_sentence("`action` must be x.", ["stop"], names) == "ACTION must be x."
    assert command_sentence("`events` must be x.", ["--event", "y"], names) == "--event must be x."


@pytest.mark.parametrize(
    ("option", "wrong", "sentence"),
    [
        ("weight", ("0.05", "101", "nan", "inf", "-1", "much"),
         "--weight must be a number from 0.1 to 100, or none."),
        ("backlog_max", ("5", "1e6", "\u0665" * 4, "9" * 5000, "-1000"),
         "--backlog-max must be a whole number of messages from 1,000 to 1,000,000,000, or none."),
        ("rate_max", ("0/s", "1/h", "2000000/s", "nan", "5/day"),
         "--rate-max must be a rate from 0.1/s to 1,000,000/s, such as 200/s or 6000/min, or none."),
    ],
)  # fmt: skip
def test_a_limit_out_of_its_range_is_one_sentence_before_anybody_is_asked(
    option: str, wrong: tuple[str, ...], sentence: str
) -> None:
    for value in wrong:
        with pytest.raises(ConfigError) as raised:
            READ[option](value)
        assert str(raised.value) == sentence
