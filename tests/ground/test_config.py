"""A configuration says what is different; the rest stays as it is for that queue."""

from __future__ import annotations

from engine import config


def test_one_setting_of_express_leaves_its_other_defaults() -> None:
    express = config.decode("[queues.express]\nconcurrency = 7\n", "test").queues.express
    assert (express.concurrency, express.validity_s, express.backoff_s, express.hedge) == (7, 300, 0.5, True)
    normal = config.decode("[queues.normal]\nconcurrency = 7\n", "test").queues.normal
    assert (normal.validity_s, normal.hedge) == (86400, False)
