"""What a process or a node notes of itself, in a field of its own of one hash, also when Redis is full."""

from __future__ import annotations

from collections.abc import Mapping

from engine.stores.redis.link import Command

# noted(notes; name, note, then per note that is to go: its name, what it said)
# A note that has been written anew since it was read stays: when Redis was away for long, all notes are old
# when it is back, and each process would remove those that the others have just written. `allow-oom`: a note
# replaces the last one and is of bounded length, and who has no note of late counts as gone, or as old.
_NOTED = """#!lua flags=allow-oom
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
for i = 3, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
"""


def noted(key: str | bytes, name: str, note: str | bytes, gone: Mapping[str, str] | None = None) -> Command:
    """Write the note of `name`, and remove the notes `gone` that still say the same. It may be sent again."""
    old = [part for pair in (gone or {}).items() for part in pair]
    return ("EVAL", _NOTED, 1, key, name, note, *old)
