#!lua name=smsengine
-- The atomic steps of the credit and queue protocol (Redis 7.0 functions).
--
-- Each function touches the keys of one shard only (`due_in`, `unread_in` and `pending_in` read those of all),
-- and every one of them is named in its call, so that Redis refuses a call as a whole when one of them is not
-- available: a key that an ACL denies, or a slot of a cluster that moves. Its answer arrives as a whole or not at all.
-- `VERSION` is made by lua_libraries.py: it ends the name of every function.
-- A caller that lost the answer may call it again; the notes say what the second call does.
-- Redis runs one function at a time. It does not undo a function that fails half way.

-- What is called often, as locals: Redis keeps globals behind a metatable, so looking one up costs as much as a short
-- call.
-- While Redis loads this file there are none, so the first step that runs sets them (`offer`).
local call, sub, byte, format, match, concat, struct_pack, struct_unpack, unpack_limit
local max, min, floor, ipairs, tonumber, unpack, select
local function look_up()
  call, sub, byte, format, match = redis.call, string.sub, string.byte, string.format, string.match
  concat, struct_pack, struct_unpack, unpack_limit = table.concat, struct.pack, struct.unpack, cmsgpack.unpack_limit
  max, min, floor = math.max, math.min, math.floor
  ipairs, tonumber, unpack, select = _G.ipairs, _G.tonumber, _G.unpack, _G.select
end

local GROUP = 'workers'

-- `rows`, each in MessagePack, as one MessagePack array32. Rows arrive encoded one by one, because
-- only those that count may be recorded.
local function array_of(rows)
  local n = #rows
  return '\221' .. string.char(
    floor(n / 16777216) % 256, floor(n / 65536) % 256,
    floor(n / 256) % 256, n % 256) .. concat(rows)
end

-- The time in milliseconds by the clock of Redis, the one clock that all machines share.
local function now_ms()
  local time = call('TIME')
  return time[1] * 1000 + floor(time[2] / 1000)
end

-- The id of this server process. It changes with each restart and each failover, the moments at
-- which data can be lost.
local run
local function run_id()
  if not run then run = match(call('INFO', 'server'), 'run_id:(%w+)') or '' end
  return run
end

-- The reply of XINFO STREAM as a table by name; an empty table when there is no stream.
local function stream_of(key)
  local found = {}
  if call('EXISTS', key) == 0 then return found end
  local flat = call('XINFO', 'STREAM', key)
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end
