"""Rule: the countries of reports, which numbers stand for them in the tables, and their ISO codes.

The tables have a number for each: the calling code; of +1 outside of the United States 1000 and the area
code, because 25 countries share that calling code; 77 for Kazakhstan, which shares +7. The view that counts
makes the number of the recipient's number (clickhouse/migrations/0006_reports.sql). Where countries share a
code otherwise (+44, +39, +47, +61, +358, +590), the main one stands for all.
"""

from __future__ import annotations

from functools import cache

from phonenumbers import COUNTRY_CODE_TO_REGION_CODE

# What a calling code of no country, such as +883, is called.
NO_COUNTRY = "001"
_KAZAKHSTAN = 77
# Area codes of +1 outside of the United States.
_AREAS = {
    "CA": "204 226 236 249 250 257 263 273 289 306 343 354 365 367 368 382 403 416 418 428 431 437 438 450 "
    "468 474 506 514 519 548 579 581 584 587 600 604 613 622 633 639 647 672 683 705 709 742 753 778 780 782 "
    "807 819 825 867 873 879 902 905 942",
    "AG": "268", "AI": "264", "AS": "684", "BB": "246", "BM": "441", "BS": "242", "DM": "767",
    "DO": "809 829 849", "GD": "473", "GU": "671", "JM": "658 876", "KN": "869", "KY": "345", "LC": "758",
    "MP": "670", "MS": "664", "PR": "787 939", "SX": "721", "TC": "649", "TT": "868", "VC": "784",
    "VG": "284", "VI": "340",
}  # fmt: skip


@cache
def _countries() -> dict[int, str]:
    """ISO 3166 codes by the numbers of the tables."""
    found = {code: regions[0] for code, regions in COUNTRY_CODE_TO_REGION_CODE.items()}
    found[_KAZAKHSTAN] = "KZ"
    for country, areas in _AREAS.items():
        found.update({1000 + int(area): country for area in areas.split()})
    return found


def country_of(number: int) -> str:
    """The ISO 3166 code of a country by its number in the tables, such as "DE"; "001" when it has none."""
    return _countries().get(number, NO_COUNTRY)


def areas() -> frozenset[int]:
    """The area codes of +1 outside of the United States."""
    return frozenset(number - 1000 for number in _countries() if number > 1000)


def has_two_digits(code: int) -> bool:
    """Whether two digits are a calling code by themselves, which no longer one begins with."""
    return code in _countries()


def digits_for(number: str) -> str:
    """Four digits that stand for the country of a number in E.164: behind a sign, the view makes the same
    number of them as of the number itself, and nobody learns more from them."""
    three, area = number[1:4], number[2:5]
    if three < "200":
        code = f"1{area}" if 1000 + int(area or 0) in _countries() else f"{int(three > '000')}000"
        return code.ljust(4, "0")
    if three[0] == "7":
        return "7700" if three[1] in "67" else "7000"
    return f"{three[:2]}00" if int(three[:2]) in _countries() else f"{three}0"


def numbers_of(country: str) -> list[int]:
    """The numbers of a country in the tables, by its ISO 3166 code; none when there is no such country."""
    return [number for number, found in _countries().items() if found == country]
