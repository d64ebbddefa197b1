"""Rule: the SQL that counts rows of `activity` one by one in a long report, as the views count them.

The same as `report_events` (0016_due_messages.sql) says of a row. The server plans a view anew for every
report that reads it, and what it plans for the lists of calling codes there takes longer than most reports
read: so the expressions stand in the statement itself, and calling codes are looked up in a text, which is
one constant.
"""

from __future__ import annotations

from engine.activity.countries import areas, has_two_digits
from engine.activity.reports import COUNTED, RESENT
from engine.stores.clickhouse.time_classes import class_sql

# By the first three digits of a number the calling code, three digits each. Of +1, below 200, it is said by
# the three digits after that where another country than the United States has them.
_CODES = "000" + "".join(
    "001" if three < 200
    else "077" if three // 10 in (76, 77)
    else "007" if three // 100 == 7
    else f"{three // 10:03d}" if has_two_digits(three // 10)
    else f"{three:03d}"
    for three in range(1, 1000)
)  # fmt: skip
_OTHER_AREAS = "".join("1" if area in areas() else "0" for area in range(1000))
_THREE, _AREA = "toUInt16OrZero(substring(to, 2, 3))", "toUInt16OrZero(substring(to, 3, 3))"
# The number of the country of a row (`engine.activity.countries`).
COUNTRY_SQL = (
    f"if({_THREE} < 200 AND substring('{_OTHER_AREAS}', {_AREA} + 1, 1) = '1', toUInt16(1000 + {_AREA}), "
    f"toUInt16OrZero(substring('{_CODES}', 3 * {_THREE} + 1, 3)))"
)
EVENT_SQL = (
    f"if(activity.event = 'retrying' AND provider_message_id != '', '{RESENT}', toString(activity.event))"
)
COUNTED_SQL = f"activity.event IN {COUNTED!r}"
# From when the message was accepted, or due where a `sent` says that this was later.
_AGE_US = "toUnixTimestamp64Micro(at) - toUnixTimestamp64Micro(greatest(accepted_at, due_at))"
AGE_SQL = f"toUInt32(least(4294967295, greatest(0, {_AGE_US})))"
# Times of answers and ages, by class.
TIMES_SQL = (
    f"sumMapIf(map({class_sql('latency_us')}, toUInt64(1)), latency_us > 0)",
    f"sumMapIf(map({class_sql(AGE_SQL)}, toUInt64(1)), activity.event IN ('sent', 'delivered'))",
)
