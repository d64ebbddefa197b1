"""The parameters that several calls have, as the OpenAPI document describes them."""

from __future__ import annotations

from engine.api.description import ID, TEXT, Parameter
from engine.records import QUEUES

ORGANISATION = {"organisation_id": Parameter("The id of the organisation.", ID, "organisation")}
API_KEY = {**ORGANISATION, "key_id": Parameter("The id of the API key.", ID, "api_key")}
ADMIN_KEY = {"key_id": Parameter("The id of the admin key.", ID, "admin_key")}
PROVIDER = {"name": Parameter("The name of a provider of the configuration.", TEXT, "provider")}
NODE = {"name": Parameter("The name of the node.", TEXT, "node")}
QUEUE = {"queue": Parameter("The queue.", {"enum": list(QUEUES)}, "queue")}
DEAD_LETTER = {"letter_id": Parameter("The id of the dead letter.", TEXT, "dead_letter")}
MESSAGE = {
    "id": Parameter(
        "The id of the message, as it was accepted.", {"type": "string", "format": "uuid"}, "message"
    )
}

BATCH = {
    "id": Parameter(
        "The id of the batch, as its messages were accepted.",
        {"type": "string", "pattern": "^[0-9a-f]{32}-[1-9][0-9]{0,3}$"},
        "batch",
    )
}

LIMIT = {
    "limit": Parameter(
        "How many entries the page may have.",
        {"type": "integer", "minimum": 1, "maximum": 1_000, "default": 100},
    )
}
# Of lists with the newest first.
CURSOR = {"cursor": Parameter("The `next` of the page before.", ID)}
# Of lists by the digits of a number.
AFTER_NUMBER = {
    "cursor": Parameter("The `next` of the page before.", {"type": "integer", "minimum": 0, "default": 0})
}
# Of lists by id.
AFTER = {
    "after": Parameter("The `next` of the page before.", {"type": "integer", "minimum": 0, "default": 0})
}
