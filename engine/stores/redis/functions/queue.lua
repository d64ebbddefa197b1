#!lua name=smsengine
-- The atomic steps of the credit and queue protocol (Redis 7.0 functions).
--
-- Each function touches the keys of one shard only (`due_in`, `unread_in` and `pending_in` read those of all),
-- and every one of them is named in its call, so that Redis refuses a call as a whole when one of them is not to
-- be had: a key that an ACL denies, or a slot of a cluster that moves. Its answer arrives as a whole or not at all.
-- `VERSION` is made by lua_libraries.py: it ends the name of every function.
-- A caller that lost the answer may call it again; the notes say what the second call does.
-- Redis runs one function at a time. It does not undo a function that fails half way.

-- What is called often, as locals: Redis keeps globals behind a metatable, so to look one up is as dear as a short call.
-- While Redis loads this file there are none, so the first step that runs sets them (`offer`).
local call, sub, byte, format, match, concat, struct_pack, struct_unpack, max, min, floor, ipairs, tonumber, unpack
local function look_up()
  call, sub, byte, format, match = redis.call, string.sub, string.byte, string.format, string.match
  concat, struct_pack, struct_unpack = table.concat, struct.pack, struct.unpack
  max, min, floor = math.max, math.min, math.floor
  ipairs, tonumber, unpack = _G.ipairs, _G.tonumber, _G.unpack
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

-- The usage stream is a chain. An entry holds the link of the entry before it (`p`). Its own link
-- is the digest of that link, of its id and of its other fields. So two streams with the same link
-- have the same history, even when Redis lost entries and was given others under the same ids.
-- A hash beside the stream, `head`, says what is known of its end:
--   link       the link of the last entry; '' before the first one, the generation after a close
--   run        the run of Redis in which a ledger found the shard whole
--   since      the last entry before the first one that an unknown run of Redis wrote
--   from       in a sealed shard: the first entries of the stream that the books have not applied
--   delivered  see inbox.lua
--   books      how far the books are, as the ledger noted it: generation, position, term, and earlier
--              generations with commas; see `note` in usage.py. Only the ledger reads it.
--   waits      see `note_waits` in inbox.lua
local function chain_of(usage, head_key)
  local head = call('HMGET', head_key, 'link', 'run', 'since')
  return {
    usage = usage,
    head = head_key,
    link = head[1] or '',
    unseen = head[2] and head[2] ~= run_id(),
    since = head[3],
  }
end

-- Append an entry. `epoch` is text, because Lua writes large numbers as 1.7e+15. In a run of Redis
-- that no ledger has looked at, the first call keeps where the stream ended before it (`since`).
local function append(chain, kind, holder, epoch, data)
  if chain.unseen and not chain.since then
    chain.since = stream_of(chain.usage)['last-generated-id'] or '0-0'
    call('HSET', chain.head, 'since', chain.since)
  end
  local id = call(
    'XADD', chain.usage, '*', 'k', kind, 'h', holder, 'e', epoch, 'd', data, 'p', chain.link)
  chain.link = redis.sha1hex(concat({chain.link, id, kind, holder, epoch, data}, '\n'))
end

-- Write the link of the last entry into the head. Called after the last `append` of a step.
local function keep(chain)
  call('HSET', chain.head, 'link', chain.link)
end

-- Call `command` on `key` with all of `arguments`, in portions, because `unpack` puts them all on Lua's stack.
-- Returns the sum of the replies.
local function call_with(command, key, arguments)
  local sum = 0
  for first = 1, #arguments, 500 do
    sum = sum + call(command, key, unpack(arguments, first, min(first + 499, #arguments)))
  end
  return sum
end

-- The values of these fields of a hash, read in portions as well.
local function values_of(key, names)
  if #names == 0 then return names end
  if #names <= 500 then return call('HMGET', key, unpack(names)) end
  local found = {}
  for first = 1, #names, 500 do
    local some = call('HMGET', key, unpack(names, first, min(first + 499, #names)))
    for i = 1, min(500, #names - first + 1) do found[first + i - 1] = some[i] end
  end
  return found
end

-- Add units to what the messages of organisations hold, in the hash `by`: to each of `organisations` those in the same
-- place of `units`. The callers change the sum of the shard, `held`, in the same step. An organisation that holds
-- nothing has no field.
local function hold(by, organisations, units)
  local count = #organisations
  if count == 1 then
    if call('HINCRBY', by, organisations[1], units[1]) == 0 then call('HDEL', by, organisations[1]) end
    return
  end
  local held, fields, gone, n = values_of(by, organisations), {}, {}, 0
  for i = 1, count do
    local organisation, sum = organisations[i], (held[i] or 0) + units[i]
    if sum == 0 then
      gone[#gone + 1] = organisation
    else
      fields[n + 1], fields[n + 2] = organisation, sum
      n = n + 2
    end
  end
  call_with('HSET', by, fields)
  call_with('HDEL', by, gone)
end

-- The link of the entry at `position`, read from the entry after it, or from the head when there is
-- none after it. When the entry at `position` is lost, this is the link of another entry.
local function link_at(chain, position)
  local behind = call('XRANGE', chain.usage, '(' .. position, '+', 'COUNT', 1)
  if behind[1] then return behind[1][2][10] or '' end
  return chain.link
end

-- register(holder, holders; name) -> epoch
-- Begins a new epoch of the holder at sequence 0. A second call begins a second epoch; the first
-- one was never used. The epoch comes from the clock, so that no epoch comes again when Redis goes
-- back to an older state: a flush of the one epoch must not count in the other. The stored outcome
-- of the last flush stays, because this call may be a late one and that flush may be sent again.
local function register(keys, args)
  local time = call('TIME')
  local before = tonumber(call('HGET', keys[1], 'epoch') or '0')
  local epoch = max(before + 1, time[1] * 1000000 + time[2])
  call('HSET', keys[1], 'epoch', format('%.0f', epoch), 'seq', 0)
  call('PERSIST', keys[1])
  call('HSET', keys[2], args[1], now_ms())
  return epoch
end

-- beat(holders[, holder]; name[, epoch, seq]) -> 1 when the holder is alive, 0 when it was fenced
-- `seq` is the last flush of the holder that Redis answered. When Redis has not stored it, Redis
-- went back to an older state, and some of what the holder admitted or asked for is gone. The
-- holder then counts as fenced.
local function beat(keys, args)
  if call('HEXISTS', keys[1], args[1]) == 0 then return 0 end
  if keys[2] then
    local known = call('HMGET', keys[2], 'epoch', 'seq')
    if known[1] ~= args[2] or tonumber(known[2]) < tonumber(args[3]) then return 0 end
  end
  call('HSET', keys[1], args[1], now_ms())
  return 1
end

-- overdue(holders; age_ms) -> names of holders whose last beat is more than `age_ms` ago
-- A beat that is still to come is one of now: the clock was set back.
local function overdue(keys, args)
  local now, found = now_ms(), {}
  local beats = call('HGETALL', keys[1])
  for i = 1, #beats, 2 do
    local at = tonumber(beats[i + 1])
    if at > now then call('HSET', keys[1], beats[i], now) end
    if at < now - args[1] then found[#found + 1] = beats[i] end
  end
  return found
end

-- fence(holder, holders, usage, head, inbox; name) -> 1 when this call fenced it, 0 when it was not
--   registered
-- Ends the epoch first and appends the marker second, so all valid usage of the holder stands before
-- the marker. Takes the name out of `holders` last: when a step before it fails, the holder is still
-- registered, and the same call does everything again. A second marker ends no further quota.
local function fence(keys, args)
  if call('HEXISTS', keys[2], args[1]) == 0 then return 0 end
  local chain = chain_of(keys[3], keys[4])
  local epoch = call('HINCRBY', keys[1], 'epoch', 1)
  call('EXPIRE', keys[1], 86400)
  append(chain, 'fence', args[1], format('%.0f', epoch - 1), '')
  keep(chain)
  call('DEL', keys[5])
  call('HDEL', keys[2], args[1])
  return 1
end

-- Keep a fingerprint and an answer under an idempotency key for `ttl` seconds, unless the key was
-- used before: then return the fingerprint and the answer of that first use. `kept` is both in one string:
-- a byte with the length of the fingerprint, the fingerprint, the answer. An older version of the
-- engine kept a hash with the fields `f` and `a`.
local function first_use(key, kept, ttl)
  local old = redis.pcall('SET', key, kept, 'NX', 'GET', 'EX', ttl)
  if not old then return nil end
  if type(old) == 'table' then
    old = call('HMGET', key, 'f', 'a')
    return old[1], old[2]
  end
  local size = byte(old)
  return sub(old, 2, size + 1), sub(old, size + 2)
end

-- The line of a queue of one shard: the ready stream, which workers read, and behind it a backlog for each
-- organisation. docs/queue.md has the rule, its source, and what follows from it.
--
-- An entry goes to the ready stream as long as nobody waits behind that and it holds less than its mark of
-- messages that no worker has been given. Otherwise the organisation's messages wait in a list of its own,
-- and it takes its turn at a virtual start time (start-time fair queueing): the time of the turn before,
-- plus the segments that it was served since divided by its weight, and no earlier than the virtual time now.
-- The messages of an organisation that is paused wait in its list, and it has no turn.
--   sms    the ready stream. An entry has one message or a bundle of several, in the field `m`. When its message
--          was given to a worker in a bundle before, the field `d` says how often, and `i` has the id of that.
--   wait   hash:  messages         how many messages wait in all lists
--                 bundled          how many more messages than entries the ready stream holds: the messages that
--                                  are not settled, less 1 for each entry
--                 number           of the last message that was made ready; see `add_entry`
--                 part:<number>    of the bundle whose last message has the number: which of its messages are
--                                  settled, a character each, '.' for not settled, 'x' for settled; none: none
--                 time             the virtual time: the start time of the last message that was moved
--                 mark             how many messages the ready stream shall hold, as a worker said last
--                 parked           how many messages wait in lists of paused organisations; `messages` is without
--                 paused, limited  how many organisations are paused, and how many have a field `limits:`
--                 limits:<organisation>   its weight, with ' paused' behind it when it is paused; none: weight 1
--                 extra            the weights of those that have a turn, less 1 for each of them
--                 moved            segments that left lists by their turn, MessagePack: see `moved_in`
--                 <organisation>   its list, MessagePack: {first chunk, last chunk, bytes taken of the first,
--                                  bytes of the last, messages, segments, and segments moved as in `moved`};
--                                  see `kept_of`
--                 <organisation>:<n>   a chunk: messages one behind another, each with its segments and its
--                                  size before it
--   turns  sorted set: each organisation with a list, by the start time of its next message
--   ahead  sorted set: each organisation without a list that was served ahead of the virtual time, by the
--          start time of its next message
-- A *busy period* begins when the ready stream is full. It ends when nobody waits and the stream has room.
-- Nothing of the times is remembered after it.
local MARK = 128
-- A chunk is closed when it has so many bytes: the second, when turns take few messages of a list. The larger, the
-- less memory a message takes; the smaller, the less is read for a turn.
local CHUNK = 4000
local CHUNK_SMALL = 1000
-- The turns of all that wait come to so many marks, segments, or to one message each, whichever is more: about a
-- tenth of a second of what providers take. So a step touches few lists, and one turn is a small part of what its
-- organisation is served in ten seconds. No turn is more than such a part of the mark.
local ROUND = 4
local TURNS_MIN = 4
-- Most messages that one step moves to the ready stream, because Redis does nothing else meanwhile.
local MOVED_MAX = 256
-- What is moved is counted in windows of so many seconds.
local WINDOW = 10
-- A bundle has at most so many octets, and at most such a part of the mark, so that what is fair is decided late.
local BUNDLE_OCTETS = 32768
local BUNDLES = 4
-- The number of the first message that is made ready is one more. Ids that others made end in smaller ones.
local FIRST = 1099511627776

-- Bundles: see engine/bundle_format.py. A *record* is a message as a part of a bundle or of a chunk: its segments,
-- its size, and itself.
local BUNDLE_HEAD = '\193\001'

local function record_of(segments, payload)
  return struct_pack('>HI4', segments, #payload) .. payload
end

-- How many messages the payload of an entry is, and whether it is a bundle.
local function count_of(payload)
  if sub(payload, 1, 2) ~= BUNDLE_HEAD or #payload < 13 then return 1, false end
  local count = struct_unpack('>H', payload, 3)
  return count, true
end

-- The messages that the payload of an entry is, and whether it is a bundle.
local function payloads_of(payload)
  if sub(payload, 1, 2) ~= BUNDLE_HEAD or #payload < 13 then return {payload}, false end
  local found, at = {}, 13
  while at + 5 <= #payload do
    local _, size, from = struct_unpack('>HI4', payload, at)
    found[#found + 1] = sub(payload, from, from + size - 1)
    at = from + size
  end
  return found, true
end

-- Where the record behind `count` records ends that begin at `at`, and their segments. It stops behind the record
-- with which they have `segments_max`. Returns the end, their number and their segments.
local function walk(records, at, count, segments_max)
  local sum, walked = 0, 0
  repeat
    local segments, size, from = struct_unpack('>HI4', records, at)
    at, sum, walked = from + size, sum + segments, walked + 1
  until walked == count or sum >= segments_max or at > #records
  return at, walked, sum
end

-- The field that says of a bundle which of its messages are settled. Its number is in the bundle, and at the end
-- of the id of its entry.
local function note_name(number)
  return 'part:' .. number
end

local function note_of(id)
  return note_name(match(id, '%d+$'))
end

local function note_in(payload)
  local number = struct_unpack('>I8', payload, 5)
  return note_name(format('%.0f', number))
end

-- Call `read` with each message of an entry that is not settled. `wait`: the hash of its line, if it has one.
local function each_open(wait, payload, read)
  local payloads, is_bundle = payloads_of(payload)
  local note = is_bundle and wait and call('HGET', wait, note_in(payload))
  for place, message in ipairs(payloads) do
    if not note or sub(note, place, place) == '.' then read(message) end
  end
end

-- Set how many messages a bundle may have now.
local function size_bundles(line)
  line.bundle = max(1, min(line.bundle_max, floor(line.mark / BUNDLES)))
end

-- The line whose keys begin at `keys[first]`: sms, wait, turns, ahead. `bundle_max`: how many messages the
-- caller lets be written in one entry. `gone`: chunks that have become empty.
local function line_of(keys, first, bundle_max)
  local known = call(
    'HMGET', keys[first + 1], 'messages', 'time', 'mark', 'paused', 'limited', 'extra', 'bundled', 'number', 'moved')
  local line = {
    sms = keys[first], wait = keys[first + 1], turns = keys[first + 2], ahead = keys[first + 3],
    messages = tonumber(known[1] or 0), time = tonumber(known[2] or 0), mark = tonumber(known[3] or MARK),
    paused = tonumber(known[4] or 0), limited = tonumber(known[5] or 0), extra = tonumber(known[6] or 0),
    busy = known[2] ~= false, lists = {}, order = {}, parked = {},
    bundled = tonumber(known[7] or 0), number = tonumber(known[8] or FIRST),
    bundle_max = tonumber(bundle_max or 1),
    records = {''}, open = 0, octets = 0, gone = {}, moved = 0, window = known[9],
  }
  -- What of this the hash is known to have: nothing in the first step of a busy period.
  line.known = known[2] and {messages = line.messages, time = line.time, extra = line.extra} or {}
  size_bundles(line)
  return line
end

local function limits_name(organisation)
  return 'limits:' .. organisation
end

-- The weight of an organisation, and whether it is paused, from its field `limits:`.
local function read_limits(limits)
  if not limits then return 1, false end
  return tonumber(match(limits, '^%S+')), string.find(limits, ' ', 1, true) ~= nil
end

-- A window, {when it began, segments moved in it, in the one before}, with `segments` that were moved in the one that
-- begins at `begins`.
local function moved_in(began, now, before, segments, begins)
  if began == begins then return began, now + segments, before end
  return begins, segments, began == begins - WINDOW and now or 0
end

-- The segments that were moved in about the last WINDOW seconds.
local function moved_lately(window, at_s)
  local began = at_s - at_s % WINDOW
  local now, before = 0, 0
  if window[1] == began then
    now, before = window[2], window[3]
  elseif window[1] == began - WINDOW then
    before = window[2]
  end
  return floor(now + before * (1 - (at_s - began) / WINDOW) + 0.5)
end

-- The consumer group of a stream, {name, consumers, pending, last-delivered-id ...}; nil when there is none.
local function group_of(sms)
  local groups = redis.pcall('XINFO', 'GROUPS', sms)
  for _, group in ipairs(groups.err and {} or groups) do
    local of = {}
    for i = 1, #group, 2 do of[group[i]] = group[i + 1] end
    if of['name'] == GROUP then return of end
  end
end

-- How many messages of the ready stream no worker has been given, those that are about to be written included.
-- The last entry that a worker was given says it, because its id ends in the number of its last message.
-- Where an older version wrote that entry, bundles in hand count as if they were not. Where messages were
-- ended unread, or an older version wrote unread entries, it is at least the entries, and at most all messages
-- but one for each entry in hand.
local function count_unread(line)
  local entries, group = call('XLEN', line.sms), group_of(line.sms)
  local unread = entries - (group and group['pending'] or 0)
  if unread <= 0 then return line.open end
  local most = unread + line.bundled
  local number = group and tonumber(match(group['last-delivered-id'], '%d+$')) or 0
  if number >= FIRST then most = min(most, line.number - number) end
  return max(unread, most) + line.open
end

-- How many more messages the ready stream takes; too few, until `count_in_hand`. It is counted when it is
-- first asked for, because most steps find nobody waiting and never ask.
local function room_of(line)
  if not line.room then
    line.room = line.mark - call('XLEN', line.sms) - line.bundled - line.open
  end
  return line.room
end

-- Set the mark of the ready stream, as a worker says.
local function aim(line, mark)
  if line.mark == tonumber(mark) then return end
  if line.room then line.room = line.room + mark - line.mark end
  line.mark = tonumber(mark)
  size_bundles(line)
  call('HSET', line.wait, 'mark', mark)
end

-- What workers have been given does not count against the mark.
local function count_in_hand(line)
  if line.counted then return end
  line.counted = true
  line.room = line.mark - count_unread(line)
end

-- Whether the ready stream holds less than its mark.
local function has_room(line)
  if room_of(line) <= 0 then count_in_hand(line) end
  return line.room > 0
end

-- Write an entry of one message, or of several: a table of their records, with room for the head before them.
-- `given`: how often its message was given to a worker before, in the entry `from`. The id ends in the number of its
-- last message. Numbers count up, so the clock may go back.
local function add_entry(line, content, count, given, from)
  local function add(ms, number)
    line.number = number
    local id, payload = format('%.0f-%.0f', ms, number), content
    if count > 1 then
      content[1] = BUNDLE_HEAD .. struct_pack('>HI8', count, number)
      payload = concat(content)
    end
    if given then return redis.pcall('XADD', line.sms, id, 'm', payload, 'd', given, 'i', from) end
    return redis.pcall('XADD', line.sms, id, 'm', payload)
  end
  line.now = line.now or now_ms()
  local before = line.number
  local id = add(line.now, before + count)
  if type(id) == 'table' then
    local last = stream_of(line.sms)['last-generated-id']
    if not last then error(id) end
    local ms, number = match(last, '^(%d+)-(%d+)$')
    line.now = max(line.now, tonumber(ms))
    id = add(line.now, max(before, tonumber(number)) + count)
    if type(id) == 'table' then error(id) end
  end
  line.bundled = line.bundled + count - 1
  line.changed = true
end

-- Write the bundle that was begun.
local function close_bundle(line)
  if line.open == 0 then return end
  local records, count = line.records, line.open
  line.records, line.open, line.octets = {''}, 0, 0
  add_entry(line, count == 1 and sub(records[2], 7) or records, count)
end

-- Put `count` messages into the bundle that was begun, or into the next one.
local function bundle(line, records, count)
  if line.open + count > line.bundle or line.octets + #records > BUNDLE_OCTETS then close_bundle(line) end
  line.records[#line.records + 1] = records
  line.open, line.octets = line.open + count, line.octets + #records
  if line.room then line.room = line.room - count end
end

local function make_ready(line, segments, payload)
  bundle(line, record_of(segments, payload), 1)
end

-- Make `count` messages ready, one record behind another.
local function make_all_ready(line, records, count)
  if count <= line.bundle then return bundle(line, records, count) end
  local at = 1
  while at <= #records do
    local behind, some = walk(records, at, line.bundle, math.huge)
    bundle(line, sub(records, at, behind - 1), some)
    at = behind
  end
end

-- Write what has become of the ready stream.
local function keep_ready(line)
  close_bundle(line)
  if line.changed then call('HSET', line.wait, 'bundled', line.bundled, 'number', line.number) end
end

-- What the hash has of the limits of organisations, in their order.
local function limits_of(line, organisations)
  local names = {}
  if line.limited == 0 then return names end
  for i, organisation in ipairs(organisations) do names[i] = limits_name(organisation) end
  return values_of(line.wait, names)
end

-- What the hash keeps of a list is a MessagePack array in which each number has four octets. So it is read and written
-- in one go, and older versions, which write the shortest form, read it too.
-- Each number is written together with the octet before it, 206: that is a quarter of the time of writing them apart.
local KEPT = '>BI5I5I5I5I5I5I5I5I5'
local FOUR = 206 * 4294967296
local KEPT_LIST = '>xxI4xI4xI4xI4xI4xI4'
-- From the octet KEPT_WINDOW_AT on.
local KEPT_WINDOW = '>I4xI4xI4'
local KEPT_WINDOW_AT = 33
local KEPT_ALL = '>xxI4xI4xI4xI4xI4xI4xI4xI4xI4'
local KEPT_SIZE = 46

-- The first six numbers of a list.
local function read_kept(kept)
  if not kept then return 1, 0, 0, 0, 0, 0 end
  if #kept == KEPT_SIZE then return struct_unpack(KEPT_LIST, kept) end
  return unpack(cmsgpack.unpack(kept), 1, 6)
end

-- `kept` and `limits`: what the hash has of the list and of its limits, when that was read before.
local function list_of(line, organisation, kept, limits)
  local list = line.lists[organisation]
  if not list then
    if kept == nil and line.limited > 0 then
      kept, limits = unpack(call('HMGET', line.wait, organisation, limits_name(organisation)))
    elseif kept == nil then
      kept = call('HGET', line.wait, organisation)
    end
    local first, last, taken, tail, messages, segments = read_kept(kept)
    list = {
      organisation = organisation, first = first, last = last, taken = taken, tail = tail, messages = messages,
      segments = segments, kept = kept, waited = kept ~= false, changed = false, moved = 0, start = false,
      chunk = false, new = false, weight = 1, paused = false,
    }
    if limits then list.weight, list.paused = read_limits(limits) end
    line.lists[organisation] = list
    local order = list.paused and line.parked or line.order
    order[#order + 1] = list
  end
  return list
end

local function pack_kept(first, last, taken, tail, messages, segments, began, now, before)
  return struct_pack(
    KEPT, 153, FOUR + first, FOUR + last, FOUR + taken, FOUR + tail, FOUR + messages, FOUR + segments, FOUR + began,
    FOUR + now, FOUR + before)
end

-- What the hash keeps of a list. `begins`: of the window in which messages were moved by its turns, in this step.
local function kept_of(list, begins)
  local began, now, before
  if list.kept and #list.kept == KEPT_SIZE then
    began, now, before = struct_unpack(KEPT_WINDOW, list.kept, KEPT_WINDOW_AT)
  else
    local of = list.kept and cmsgpack.unpack(list.kept) or {}
    began, now, before = of[7] or 0, of[8] or 0, of[9] or 0
  end
  if list.moved > 0 then began, now, before = moved_in(began, now, before, list.moved, begins) end
  return pack_kept(list.first, list.last, list.taken, list.tail, list.messages, list.segments, began, now, before)
end

-- Change a count of the hash; 0 is no field.
local function count_in(wait, field, by)
  if by ~= 0 and call('HINCRBY', wait, field, by) == 0 then call('HDEL', wait, field) end
end

-- Note that `count` messages came to a list, or left it.
local function count_waiting(line, list, count, segments)
  list.messages, list.segments, list.changed = list.messages + count, list.segments + segments, true
  if list.paused then
    line.came = (line.came or 0) + count
  else
    line.messages = line.messages + count
  end
end

-- The start time of the next message of an organisation without a turn.
local function next_start(line, organisation)
  return max(line.time, tonumber(call('ZSCORE', line.ahead, organisation) or 0))
end

-- Whether a message goes to the ready stream at once, whoever it belongs to. (Who is paused is not looked at.)
local function is_open(line)
  return line.messages == 0 and has_room(line)
end

-- Whether who a message belongs to does not matter.
local function is_open_to_all(line)
  return line.paused == 0 and is_open(line)
end

-- Let a message into the line, as a record. `finish` has to follow.
-- An organisation without a list whose turn is now is served at once, although the ready stream is full:
-- it would be the next one anyway. So it waits for others no longer than the ready stream is.
local function enter(line, organisation, segments, record)
  local list = line.lists[organisation]
  local paused = false
  if line.paused > 0 then
    list = list or list_of(line, organisation)
    paused = list.paused
  end
  if not paused then
    if is_open(line) then return bundle(line, record, 1) end
    line.busy = true
  end
  list = list or list_of(line, organisation)
  if list.messages == 0 and not paused then
    list.start = list.start or next_start(line, organisation)
    if list.start <= line.time then
      list.start = list.start + segments / list.weight
      return bundle(line, record, 1)
    end
  end
  list.new = list.new or {}
  list.new[#list.new + 1] = record
  count_waiting(line, list, 1, segments)
end

-- Let a run of messages of an organisation into the line: `count`, with so many segments, from `at` in `records` on.
-- Once it has a list, all that is left goes there.
local function enter_run(line, organisation, count, segments, records, at, behind)
  while at < behind do
    local list = line.lists[organisation]
    if list and list.messages > 0 and (list.paused or not is_open(line)) then
      local new = list.new or {}
      list.new, new[#new + 1] = new, sub(records, at, behind - 1)
      return count_waiting(line, list, count, segments)
    end
    local own, size, from = struct_unpack('>HI4', records, at)
    enter(line, organisation, own, sub(records, at, from + size - 1))
    at, count, segments = from + size, count - 1, segments - own
  end
end

-- Let `count` messages into the line, one record behind another. `index`, MessagePack, of each run of them that may
-- go to a list together: the organisation, how many messages, segments and octets; the next one, and so on.
local function enter_all(line, count, index, records)
  if is_open_to_all(line) then
    if line.room < count then count_in_hand(line) end
    if line.room >= count then return make_all_ready(line, records, count) end
  end
  local of, at, unknown, n = cmsgpack.unpack(index), 1, {}, 0
  for i = 1, #of, 4 do
    local organisation = of[i]
    if organisation ~= unknown[n] and not line.lists[organisation] then
      n = n + 1
      unknown[n] = organisation
    end
  end
  if n > 1 then
    local kept, limits = call('HMGET', line.wait, unpack(unknown)), limits_of(line, unknown)
    local idle = {}
    for i, organisation in ipairs(unknown) do
      local list = list_of(line, organisation, kept[i], limits[i])
      if list.messages == 0 and not list.paused then idle[#idle + 1] = organisation end
    end
    local ahead = idle[1] and call('ZMSCORE', line.ahead, unpack(idle))
    for i, organisation in ipairs(idle) do
      line.lists[organisation].start = max(line.time, tonumber(ahead[i] or 0))
    end
  end
  for i = 1, #of, 4 do
    local behind = at + of[i + 3]
    enter_run(line, of[i], of[i + 1], of[i + 2], records, at, behind)
    at = behind
  end
end

-- The ends of the names of chunks, by their numbers, as far as they were made: most lists have few.
local SUFFIXES = {}

local function suffix_of(n)
  local suffix = SUFFIXES[n]
  if not suffix then
    suffix = format(':%.0f', n)
    if n <= 1000 then SUFFIXES[n] = suffix end
  end
  return suffix
end

local function chunk_name(list, n)
  return list.organisation .. suffix_of(n)
end

-- Append two values to an array.
local function put(into, a, b)
  local n = #into
  into[n + 1], into[n + 2] = a, b
end

-- How many organisations have a turn, as it was counted when it was first asked for, and those that `finish` has begun.
local function waiting_of(line)
  line.waiting = line.waiting or call('ZCARD', line.turns)
  return line.waiting
end

-- The segments of one turn; a turn has a message at least. Where few wait, the turns are as if TURNS_MIN did.
local function slice_of(line)
  return line.mark / max(TURNS_MIN, waiting_of(line) / ROUND)
end

-- The most octets of a chunk that is written now.
local function chunk_octets(line)
  return slice_of(line) >= 8 and CHUNK or CHUNK_SMALL
end

-- Note that the last chunk of a list is to be written: `runs` behind what is there. A list of one chunk is not read again
-- in this step.
local function put_chunk(fields, list, chunk, runs)
  chunk = chunk == '' and runs or chunk .. runs
  put(fields, chunk_name(list, list.last), chunk)
  if list.first == list.last then list.chunk = chunk end
end

-- Write the messages that came to lists behind those that are there. `order`: the lists to look at.
local function append_new(line, order)
  local lists, names, fields = {}, {}, {}
  for _, list in ipairs(order) do
    if list.new then lists[#lists + 1] = list end
  end
  if not lists[1] then return end
  -- Chunks in which there is room are read, while they are small: each message that comes alone writes its chunk anew.
  local chunk_max, numbers = chunk_octets(line), {}
  for i, list in ipairs(lists) do
    if list.last >= list.first and list.tail + #list.new[1] <= CHUNK_SMALL then
      names[#names + 1] = chunk_name(list, list.last)
      numbers[i] = #names
    end
  end
  local chunks = values_of(line.wait, names)
  for i, list in ipairs(lists) do
    -- Runs of messages, from the one at `from` on, are to be in one chunk, behind what is there of it.
    local new, from, chunk = list.new, 1, numbers[i] and (chunks[numbers[i]] or '')
    for at = 1, #new do
      local octets = #new[at]
      if not chunk or list.tail + octets > chunk_max then
        if chunk then put_chunk(fields, list, chunk, concat(new, '', from, at - 1)) end
        chunk, from, list.last, list.tail = '', at, list.last + 1, 0
      end
      list.tail = list.tail + octets
    end
    put_chunk(fields, list, chunk, new[from + 1] and concat(new, '', from) or new[from])
    list.new = false
  end
  call_with('HSET', line.wait, fields)
end

-- The first chunk of a list that has messages. One that `sift` has emptied is not there.
local function first_chunk(wait, list)
  local chunk = call('HGET', wait, chunk_name(list, list.first))
  while not chunk do
    list.first = list.first + 1
    chunk = call('HGET', wait, chunk_name(list, list.first))
  end
  return chunk
end

-- Move messages from the front of a list to the ready stream: up to `count`, and no more once they have
-- `segments_max`. Returns how many, and their segments.
local function move_some(line, list, count, segments_max)
  local moved, sum = 0, 0
  repeat
    if not list.chunk then list.chunk = first_chunk(line.wait, list) end
    if line.open >= line.bundle then close_bundle(line) end
    local behind, some, segments = walk(
      list.chunk, list.taken + 1, min(count - moved, line.bundle - line.open), segments_max - sum)
    bundle(line, sub(list.chunk, list.taken + 1, behind - 1), some)
    list.taken, moved, sum = behind - 1, moved + some, sum + segments
    if list.taken == #list.chunk then
      line.gone[#line.gone + 1] = chunk_name(list, list.first)
      list.chunk, list.taken, list.first = false, 0, list.first + 1
    end
  until moved == list.messages or moved == count or sum >= segments_max
  count_waiting(line, list, -moved, -sum)
  return moved, sum
end

-- The organisations in front, in the order of their turns, as far as `refill` looked at them: their names, what the
-- hash keeps of their lists, the first chunks of these, and the starts of their turns. Where there is no chunk, the
-- list is one of `line.lists`, or becomes one with its turn.
local function turns_of(line)
  line.fields, line.turned, line.left, line.passed = {}, {}, {}, {}
  return {names = {}, kept = {}, chunks = {}, starts = {}, size = 0, fetched = 0}
end

-- Look at `count` more organisations. What this step knows of their lists is not read.
local function fetch(line, page, count)
  local flat = call('ZRANGE', line.turns, page.fetched, page.fetched + count - 1, 'WITHSCORES')
  local lists, names, starts, kepts, chunks = line.lists, page.names, page.starts, page.kept, page.chunks
  local n, unknown, text, start = page.size, {}, nil, nil
  for i = 1, #flat, 2 do
    local name = flat[i]
    local list = lists[name]
    -- Many have the same start.
    if flat[i + 1] ~= text then text, start = flat[i + 1], tonumber(flat[i + 1]) end
    -- One that this step has emptied has its turn until the end of it.
    if not list or list.messages > 0 then
      n = n + 1
      names[n], starts[n], chunks[n] = name, start, false
      if not list then unknown[#unknown + 1] = name end
    end
  end
  local found, limits, next, wanted, places = values_of(line.wait, unknown), limits_of(line, unknown), 0, {}, {}
  for i = page.size + 1, n do
    local name = names[i]
    local list, number = lists[name], nil
    if not list then
      next = next + 1
      local kept = found[next]
      kepts[i] = kept
      if limits[next] or #kept ~= KEPT_SIZE then
        list = list_of(line, name, kept, limits[next] or false)
      else
        number = struct_unpack('>xxI4', kept)
      end
    end
    if list then list.start, number = starts[i], not list.chunk and list.first end
    if number then
      local at = #wanted + 1
      wanted[at], places[at] = name .. suffix_of(number), i
    end
  end
  local read = values_of(line.wait, wanted)
  for at, i in ipairs(places) do
    local list = lists[names[i]]
    if list then list.chunk = read[at] else chunks[i] = read[at] end
  end
  page.size, page.fetched = n, #flat == 2 * count and page.fetched + count or nil
end

-- The list at a place of the page, for what `take_turns` does not do, and from then on.
local function listed(line, page, i)
  local name = page.names[i]
  local list = line.lists[name]
  if not list then
    list = list_of(line, name, page.kept[i], false)
    list.chunk, list.start, page.chunks[i] = page.chunks[i], page.starts[i], false
  end
  return list
end

-- Put a place of the page, which has had a turn, among the others that had one, by the starts of their next ones: behind
-- those with the same start.
local function put_again(again, next, starts, i)
  local at, start = #again, starts[i]
  while at >= next and starts[again[at]] > start do
    again[at + 1] = again[at]
    at = at - 1
  end
  again[at + 1] = i
end

-- Write the bundle that was begun, which has so many messages and octets. Returns what `take_turns` knows of the next.
local function next_bundle(line, open, octets)
  line.open, line.octets = open, octets
  close_bundle(line)
  return line.records, 0, 0
end

-- The turns of those on the page from the place `i` on, of organisations without limits that this step has not looked at:
-- what `move_some` does, and what is to be written noted at once. With ten thousand lists each turn is one message of
-- another. It stops where a turn is in two chunks or two bundles, or where one of `again` is first.
-- Returns the place behind the last one, and how many messages are left to be moved.
local function take_turns(line, page, i, left, slice, again, next)
  local names, kepts, chunks, starts = page.names, page.kept, page.chunks, page.starts
  local fields, turned, gone, begins = line.fields, line.turned, line.gone, line.begins
  local records, open, octets, time, bundle_most = line.records, line.open, line.octets, line.time, line.bundle
  local moved_all, sum_all, soonest = 0, 0, again[next] and starts[again[next]] or math.huge
  while i <= page.size and left > 0 do
    local name, start, chunk = names[i], starts[i], chunks[i]
    if not chunk or start > soonest then break end
    if open >= bundle_most then records, open, octets = next_bundle(line, open, octets) end
    local first, last, taken, tail, messages, segments, began, now, before = struct_unpack(KEPT_ALL, kepts[i])
    local most = bundle_most - open
    if most > left then most = left end
    local at, moved, sum = walk(chunk, taken + 1, most, slice)
    if sum < slice and moved < messages and moved < left then break end
    local size = at - taken - 1
    if octets + size > BUNDLE_OCTETS then records, open, octets = next_bundle(line, open, octets) end
    records[#records + 1] = sub(chunk, taken + 1, at - 1)
    open, octets = open + moved, octets + size
    if start > time then time = start end
    start, taken = start + sum, at - 1
    if taken == #chunk then
      gone[#gone + 1] = name .. suffix_of(first)
      first, taken, chunks[i] = first + 1, 0, false
    end
    if messages == moved then
      gone[#gone + 1], line.left[#line.left + 1] = name, name
      if start > time then put(line.passed, start, name) end
    else
      if began == begins then now = now + sum else began, now, before = moved_in(began, now, before, sum, begins) end
      local kept = pack_kept(first, last, taken, tail, messages - moved, segments - sum, began, now, before)
      kepts[i], starts[i] = kept, start
      if start < soonest then soonest = start end
      put(fields, name, kept)
      put(turned, start, name)
      put_again(again, next, starts, i)
    end
    left, moved_all, sum_all, i = left - moved, moved_all + moved, sum_all + sum, i + 1
  end
  line.open, line.octets, line.time, line.room = open, octets, time, line.room - moved_all
  line.messages, line.moved = line.messages - moved_all, line.moved + sum_all
  return i, left
end

-- Move messages to the ready stream until it holds its mark, always of the organisation whose turn is first:
-- one message, or as many as come to a slice, so that a step touches few lists.
local function refill(line)
  if line.messages == 0 then return end
  count_in_hand(line)
  if room_of(line) <= 0 then return end
  local left, slice = min(line.room, MOVED_MAX), slice_of(line)
  line.now = line.now or now_ms()
  local at_s = floor(line.now / 1000)
  line.begins = at_s - at_s % WINDOW
  local page, first, count = turns_of(line), 1, math.ceil(left / math.ceil(slice))
  -- The places of those that had a turn in this step, by the starts of their next ones.
  local again, next, starts = {}, 1, page.starts
  while left > 0 do
    while first > page.size and page.fetched do
      fetch(line, page, count)
      count = min(2 * count, left)
    end
    -- Of several with the same start, one that had a turn comes last.
    local i, other = first, again[next]
    if first > page.size or other and starts[other] < starts[first] then
      i, next = other, next + 1
      if not i then break end
    else
      first, left = take_turns(line, page, first, left, slice, again, next)
    end
    if i == first or i == other then
      first = max(first, i + 1)
      local list, start = listed(line, page, i), starts[i]
      line.time = max(line.time, start)
      local moved, segments = move_some(line, list, left, slice)
      start, left = start + segments / list.weight, left - moved
      starts[i], list.start, list.moved = start, start, list.moved + segments
      if list.messages > 0 then put_again(again, next, starts, i) end
    end
  end
end

-- Write the lists of paused organisations that this step has changed.
local function keep_parked(line)
  append_new(line, line.parked)
  for _, list in ipairs(line.parked) do
    if list.messages > 0 and list.changed then
      call('HSET', line.wait, list.organisation, kept_of(list))
    elseif list.kept and list.messages == 0 then
      call('HDEL', line.wait, list.organisation)
    end
  end
  if line.came then count_in(line.wait, 'parked', line.came) end
end

-- Count what was moved by turns, of all organisations, and what weight waits. What is to be written of it goes to `fields`.
local function count_served(line, fields)
  local all = line.moved
  for _, list in ipairs(line.order) do
    all = all + list.moved
    local has = list.messages > 0
    if list.weight ~= 1 and has ~= (list.kept ~= false) then
      line.extra = line.extra + (has and 1 or -1) * (list.weight - 1)
    end
  end
  if all == 0 then return end
  local window = line.window and cmsgpack.unpack(line.window) or {0, 0, 0}
  put(fields, 'moved', cmsgpack.pack({moved_in(window[1], window[2], window[3], all, line.begins)}))
end

-- Write what has become of the line, and refill its ready stream. The last step of every function that lets
-- a message in or makes room. Returns the weight of all that wait for their turn, in tenths; 0: nobody does.
local function finish(line)
  keep_parked(line)
  if not line.busy then
    keep_ready(line)
    return 0
  end
  append_new(line, line.order)
  local fresh, begun = {}, {}
  for _, list in ipairs(line.order) do
    if list.messages > 0 and not list.waited then
      local n = #fresh
      fresh[n + 1], fresh[n + 2] = list.start, list.organisation
      begun[#begun + 1] = list.organisation
      list.waited = true
    end
  end
  if begun[1] then
    line.waiting = waiting_of(line) + call_with('ZADD', line.turns, fresh)
    call_with('ZREM', line.ahead, begun)
  end
  refill(line)
  keep_ready(line)
  if line.messages == 0 and has_room(line) then
    call('DEL', line.turns, line.ahead)
    call('HDEL', line.wait, 'messages', 'time', 'extra', 'moved')
    for _, list in ipairs(line.order) do
      if list.waited then line.gone[#line.gone + 1] = list.organisation end
    end
    call_with('HDEL', line.wait, line.gone)
    return 0
  end
  local before = line.known
  local fields, left = line.fields or {}, line.left or {}
  count_served(line, fields)
  local turns, ahead = line.turned or {}, line.passed or {}
  if line.messages ~= before.messages then put(fields, 'messages', line.messages) end
  if line.time ~= before.time then put(fields, 'time', line.time) end
  if line.extra ~= before.extra then put(fields, 'extra', line.extra) end
  for _, list in ipairs(line.order) do
    if list.messages > 0 then
      if list.changed then put(fields, list.organisation, kept_of(list, line.begins)) end
      if list.moved > 0 then put(turns, list.start, list.organisation) end
    else
      if list.waited then line.gone[#line.gone + 1], left[#left + 1] = list.organisation, list.organisation end
      if list.start and list.start > line.time then put(ahead, list.start, list.organisation) end
    end
  end
  call_with('HSET', line.wait, fields)
  call_with('HDEL', line.wait, line.gone)
  call_with('ZADD', line.turns, turns)
  local removed = call_with('ZREM', line.turns, left)
  call_with('ZADD', line.ahead, ahead)
  if line.time ~= before.time then call('ZREMRANGEBYSCORE', line.ahead, '-inf', line.time) end
  if line.messages == 0 then return 0 end
  return max(1, floor(10 * (waiting_of(line) - removed + line.extra) + 0.5))
end

-- Put messages that nobody has begun to send back to the front of their list, in the order of their ids, which
-- is the order in which they were accepted: behind those there that are older, as far as these lie in the first
-- octets, CHUNK or a little more. `finish` has to follow.
local function put_back(line, organisation, payloads)
  local list, came, segments_came = list_of(line, organisation), {}, 0
  local function id_of(payload)
    local readable, message = pcall(cmsgpack.unpack, payload)
    return readable and message[1] or '', readable and message[7]
  end
  for i, payload in ipairs(payloads) do
    local id, segments = id_of(payload)
    came[i] = {id, record_of(segments, payload)}
    segments_came = segments_came + segments
  end
  table.sort(came, function(a, b) return a[1] < b[1] end)
  local chunk, at, parts, next = '', 1, {}, 1
  if list.messages > 0 then
    chunk, at = first_chunk(line.wait, list), list.taken + 1
  elseif not list.paused then
    list.start = list.start or next_start(line, organisation)
  end
  local read = #chunk
  -- The next chunk becomes a part of this one. Those that `sift` or `cancel` has emptied are not there.
  local function read_on()
    local n, behind = list.first, false
    while not behind and n < list.last and read < CHUNK do
      n = n + 1
      behind = call('HGET', line.wait, chunk_name(list, n))
    end
    if not behind then return false end
    call('HDEL', line.wait, chunk_name(list, list.first))
    list.first, chunk, at, read = n, behind, 1, read + #behind
    return true
  end
  while next <= #came and (at <= #chunk or read_on()) do
    local _, size, from = struct_unpack('>HI4', chunk, at)
    if id_of(sub(chunk, from, from + size - 1)) < came[next][1] then
      parts[#parts + 1] = sub(chunk, at, from + size - 1)
      at = from + size
    else
      parts[#parts + 1] = came[next][2]
      next = next + 1
    end
  end
  for i = next, #came do parts[#parts + 1] = came[i][2] end
  parts[#parts + 1] = sub(chunk, at)
  chunk = concat(parts)
  if list.last < list.first then list.last = list.first end
  if list.last == list.first then list.tail = #chunk end
  list.taken, list.chunk = 0, false
  call('HSET', line.wait, chunk_name(list, list.first), chunk)
  count_waiting(line, list, #came, segments_came)
  if not list.paused then line.busy = true end
end

-- Put messages of any organisations back to the front of their lists.
local function put_all_back(line, payloads)
  local of, order = {}, {}
  for _, payload in ipairs(payloads) do
    local organisation = format('%.0f', cmsgpack.unpack(payload)[2])
    if not of[organisation] then
      of[organisation] = {}
      order[#order + 1] = organisation
    end
    table.insert(of[organisation], payload)
  end
  for _, organisation in ipairs(order) do put_back(line, organisation, of[organisation]) end
end

-- Take tokens out of the buckets of organisations with a most of messages a second. `args` from `at` on: how
-- many organisations, then of each: itself, its rate, how many messages of it were admitted.
-- A bucket holds one second of the rate, and at least one message. It may be overdrawn.
-- Returns array of {organisation, tokens left as text}.
local function draw(limits, args, at)
  local left, count = {}, tonumber(args[at] or 0)
  local now = count > 0 and now_ms()
  for i = 1, count do
    local organisation, rate = args[at + 3 * i - 2], tonumber(args[at + 3 * i - 1])
    local field = 'rate:' .. organisation
    local full = max(1, rate)
    local tokens, seen = match(call('HGET', limits, field) or '', '^(%S+) (%S+)$')
    tokens = tokens and min(full, tokens + max(0, now - seen) * rate / 1000) or full
    tokens = tokens - args[at + 3 * i]
    call('HSET', limits, field, format('%.3f %.0f', tokens, now))
    left[i] = {organisation, format('%.3f', tokens)}
  end
  return left
end

-- How many messages wait in the lists of organisations that a step has let messages into: an organisation, its
-- messages, the next one, and so on, for each line.
local function backlogs_of(lines)
  local found = {}
  for _, line in pairs(lines) do
    for _, lists in ipairs({line.order, line.parked}) do
      for _, list in ipairs(lists) do
        if list.changed and list.messages > 0 then
          local n = #found
          found[n + 1], found[n + 2] = tonumber(list.organisation), list.messages
        end
      end
    end
  end
  return found
end

-- The units of the organisations in `used`, each an organisation, its units, the next one, and so on, in MessagePack.
-- Returns the organisations, the units of each, all units, and what is one of `used` with the sums.
local function add_up(used)
  local organisations, units, held, at, n = {}, {}, 0, {}, 0
  for _, packed in ipairs(used) do
    local of = cmsgpack.unpack(packed)
    for i = 1, #of, 2 do
      local organisation, own = of[i], of[i + 1]
      local place = used[2] and at[organisation]
      if place then
        units[place] = units[place] + own
      else
        n = n + 1
        organisations[n], units[n] = organisation, own
        if used[2] then at[organisation] = n end
      end
      held = held + own
    end
  end
  if not used[2] then return organisations, units, held, used[1] end
  local flat = {}
  for i = 1, n do flat[2 * i - 1], flat[2 * i] = organisations[i], units[i] end
  return organisations, units, held, cmsgpack.pack(flat)
end

-- admit(holder, line express, line normal, due express, due normal, activity, usage, head, held,
--       held by organisation, generation, limits, idempotency keys ...; name, epoch, seq, idempotency_ttl_s,
--       submissions, notes, bundle_max, portions,
--       then per portion: index of its submission (of the first one, when it has no key), what to keep under the
--         next idempotency key ('' for a portion without one), organisations with their units (MessagePack),
--         rows, array of rows without header, pieces, dues,
--         then per piece: queue ('e' express, 'n' normal), messages, and of these: index and records as for
--           `enter_all`,
--         then per due: queue, due_at_us, payload,
--       then per note: kind, data, then what `draw` takes)
-- A portion is one submission with an idempotency key, or several without.
-- -> {status, hits, size, backlogs, tokens}: status 'applied', 'fenced' or 'unseen'; hits: {submission index,
--    fingerprint, answer} for each idempotency key used before; size: of how many submissions the flush
--    was that was applied under this sequence; backlogs and tokens: what `backlogs_of` and `draw` return,
--    neither in the answer to a second call.
--
-- A holder whose answer was lost sends the flush again under the same sequence. When it was applied,
-- its stored outcome is the answer, even when the holder was fenced since. Only the sequence is written
-- anew, as it is, so that a WAIT behind this call waits for replicas also on a new connection.
-- A holder whose clients have given up sends it again without its submissions (*withdrawn*): `size` says
-- which of the two was applied, and the other never will be.
-- While the shard has no generation, because Redis lost its data and the books are not closed yet,
-- every holder counts as fenced. 'unseen': this is a new run of Redis, and no ledger has looked yet
-- whether all data are there. The holder tries again later. Without this, a holder whose fence was
-- lost could spend units that others have been granted since.
local function admit(keys, args)
  local name, epoch, seq, ttl = args[1], args[2], tonumber(args[3]), args[4]
  local state = call('HMGET', keys[1], 'epoch', 'seq', 'reply', 'applied', 'size')
  if state[4] == epoch .. ':' .. args[3] then
    call('HSET', keys[1], 'seq', state[2])
    return {'applied', state[3] == '' and {} or cmsgpack.unpack(state[3]), tonumber(state[5])}
  end
  if state[1] ~= epoch then return {'fenced', {}, 0} end
  local generation = call('GET', keys[17])
  if not generation or sub(generation, 1, 8) == 'closing:' then return {'fenced', {}, 0} end
  if seq ~= tonumber(state[2]) + 1 then return {'fenced', {}, 0} end
  local chain = chain_of(keys[13], keys[14])
  if chain.unseen then return {'unseen', {}, 0} end

  local at, key = 9, 18
  local used, rows, row_count, hits = {}, {}, 0, {}
  local lines = {}
  local function line_at(queue)
    if not lines[queue] then lines[queue] = line_of(keys, queue == 'e' and 2 or 6, args[7]) end
    return lines[queue]
  end
  for _ = 1, tonumber(args[8]) do
    local pieces, dues = tonumber(args[at + 5]), tonumber(args[at + 6])
    local first = at + 7
    local due = first + 4 * pieces
    local fingerprint, answer
    if args[at + 1] ~= '' then
      key = key + 1
      fingerprint, answer = first_use(keys[key], args[at + 1], ttl)
    end
    if fingerprint then
      hits[#hits + 1] = {tonumber(args[at]), fingerprint, answer}
    else
      for i = first, due - 1, 4 do
        enter_all(line_at(args[i]), tonumber(args[i + 1]), args[i + 2], args[i + 3])
      end
      for i = due, due + 3 * dues - 1, 3 do
        call('ZADD', args[i] == 'e' and keys[10] or keys[11], args[i + 1], args[i + 2])
      end
      used[#used + 1] = args[at + 2]
      row_count = row_count + tonumber(args[at + 3])
      rows[#rows + 1] = args[at + 4]
    end
    at = due + 3 * dues
  end

  local backlogs = backlogs_of({lines['e'], lines['n']})
  if lines['e'] then finish(lines['e']) end
  if lines['n'] then finish(lines['n']) end
  if row_count > 0 then
    local blob = '\221' .. string.char(
      floor(row_count / 16777216) % 256, floor(row_count / 65536) % 256,
      floor(row_count / 256) % 256, row_count % 256) .. (rows[2] and concat(rows) or rows[1])
    call('XADD', keys[12], '*', 'b', blob)
  end
  if used[1] then
    local organisations, units, held, flat = add_up(used)
    hold(keys[16], organisations, units)
    append(chain, 'usage', name, epoch, flat)
    call('INCRBY', keys[15], held)
  end
  for _ = 1, tonumber(args[6]) do
    append(chain, args[at], name, epoch, args[at + 1])
    at = at + 2
  end
  keep(chain)

  local reply = ''
  if #hits > 0 then reply = cmsgpack.pack(hits) end
  call(
    'HSET', keys[1], 'seq', seq, 'reply', reply, 'applied', epoch .. ':' .. args[3], 'size', args[5])
  return {'applied', hits, tonumber(args[5]), backlogs, draw(keys[18], args, at)}
end

-- Whether the id `a` of an entry is behind the id `b` in their stream.
local function is_behind(a, b)
  local a_ms, a_seq = match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = match(b, '^(%d+)-(%d+)$')
  if a_ms ~= b_ms then return tonumber(a_ms) > tonumber(b_ms) end
  return tonumber(a_seq) > tonumber(b_seq)
end

-- unread(sms, wait; after, limit)
-- -> {about `limit` messages behind the entry `after` that no worker has been given, whether there are more}
--    as {{entry id, fields, which of its messages are settled ('' for none)} ...}
-- A bundle may exceed the limit.
local function unread(keys, args)
  local group, limit = group_of(keys[1]), tonumber(args[2])
  if not group then return redis.error_reply('NOGROUP The queue has no consumer group.') end
  local from, found, messages = group['last-delivered-id'], {}, 0
  if is_behind(args[1], from) then from = args[1] end
  local count = math.ceil(limit / 50)
  while messages < limit do
    local page = call('XRANGE', keys[1], '(' .. from, '+', 'COUNT', count)
    for _, entry in ipairs(page) do
      local size, is_bundle = count_of(entry[2][2])
      found[#found + 1] = {entry[1], entry[2], is_bundle and call('HGET', keys[2], note_of(entry[1])) or ''}
      messages = messages + size
      from = entry[1]
      if messages >= limit then return {found, 1} end
    end
    if #page < count then return {found, 0} end
    count = math.ceil((limit - messages) * #found / messages)
  end
  return {found, 1}
end

-- What a sweeper asks of all shards at once, so that it calls the functions of a shard only where they have
-- something to do. `names` keys belong to each shard; `look` gives a number for those that begin at its argument.
local function of_each(keys, names, look)
  local found = {}
  for first = 1, #keys, names do found[#found + 1] = look(first) end
  return found
end

-- due_in(due and wait of each shard; mark)
-- -> by shard, the time from which on `promote` has something to do, microseconds: that of the first due message,
--    0 where messages wait for their turn or another mark stands there, -1 where nothing is
local function due_in(keys, args)
  return of_each(keys, 2, function(first)
    local known = call('HMGET', keys[first + 1], 'time', 'mark')
    if known[1] or tonumber(known[2] or MARK) ~= tonumber(args[1]) then return 0 end
    return tonumber(call('ZRANGE', keys[first], 0, 0, 'WITHSCORES')[2] or -1)
  end)
end

-- unread_in(sms and wait of each shard)
-- -> by shard, 1 when `sift` or `unread` has something to look at: messages in lists, or that nobody was given
local function unread_in(keys)
  return of_each(keys, 2, function(first)
    local waiting = call('HMGET', keys[first + 1], 'messages', 'parked')
    if tonumber(waiting[1] or 0) > 0 or tonumber(waiting[2] or 0) > 0 then return 1 end
    local group = group_of(keys[first])
    if not group then return 1 end
    local last = call('XREVRANGE', keys[first], '+', '-', 'COUNT', 1)[1]
    return last and is_behind(last[1], group['last-delivered-id']) and 1 or 0
  end)
end

-- pending_in(sms and holders of each shard; name)
-- -> by shard, 1 when the worker `name` has pending entries, and 2 more when `take_over` has something to look
--    at: others have pending entries, or are fenced
local function pending_in(keys, args)
  return of_each(keys, 2, function(first)
    local consumers = redis.pcall('XINFO', 'CONSUMERS', keys[first], GROUP)
    -- Whoever acts on it is told why.
    if consumers.err then return 3 end
    local own, others = 0, 0
    for _, info in ipairs(consumers) do
      if info[2] == args[1] then
        own = min(1, info[4])
      elseif info[4] > 0 or call('HEXISTS', keys[first + 1], info[2]) == 0 then
        others = 2
      end
    end
    return own + others
  end)
end

-- Settle some messages of a bundle, by their places in it, each a byte counted from 0. `given` as for `settle`.
-- Returns which of them count, {place = true}, and how many that is.
local function settle_part(line, id, size, places, given)
  local is_there
  if given then
    is_there = is_behind(id, given) and #call('XRANGE', line.sms, id, id) == 1
  else
    is_there = #call('XPENDING', line.sms, GROUP, id, id, 1) == 1
  end
  if not is_there then return {}, 0 end
  local name = note_of(id)
  local note = call('HGET', line.wait, name) or string.rep('.', size)
  local of, found, count = {byte(note, 1, -1)}, {}, 0
  for i = 1, #places do
    local place = byte(places, i)
    if of[place + 1] == 46 then
      of[place + 1], found[place], count = 120, true, count + 1
    end
  end
  if count == 0 then return found, 0 end
  note = string.char(unpack(of))
  line.changed = true
  if string.find(note, '.', 1, true) then
    call('HSET', line.wait, name, note)
    line.bundled = line.bundled - count
  else
    call('XACK', line.sms, GROUP, id)
    call('XDEL', line.sms, id)
    call('HDEL', line.wait, name)
    line.bundled = line.bundled - count + 1
  end
  return found, count
end

-- Settle whole entries. Returns {id = true} of those that count, and whether that is all of them.
-- A worker's entry is pending until it is settled, and then leaves the group and the stream in one step. So of
-- entries that were given, those that this call took out of the stream were pending.
local function settle_whole(line, ids, given)
  local counts, all = {}, false
  if not given then
    local acknowledged = 0
    for first = 1, #ids, 500 do
      local last = min(first + 499, #ids)
      acknowledged = acknowledged + call('XACK', line.sms, GROUP, unpack(ids, first, last))
    end
    all = acknowledged == #ids
    if not all then given = (group_of(line.sms) or {})['last-delivered-id'] or '0-0' end
    if all then call_with('XDEL', line.sms, ids) end
    for _, id in ipairs(ids) do
      counts[id] = all or not is_behind(id, given) and call('XDEL', line.sms, id) == 1
    end
  else
    for _, id in ipairs(ids) do
      counts[id] = is_behind(id, given) and call('XDEL', line.sms, id) == 1
    end
  end
  return counts, all
end

-- settle(line, due, dead, activity, usage, head, held, held by organisation; name, mark, bundle_max,
--        whole entries, of these bundles, messages in whole entries, parts of bundles, messages in parts,
--        dues, deads, rows, array of rows without header, sums, details,
--        then ids of whole entries, bundles first,
--        then per part: entry id, messages of the bundle, places (a byte each, from 0),
--        then per message that is due again: due_at_us, payload; then payloads of dead letters)
--        due_at_us 0: not due, but back to the front of its organisation's list.
--   sums     MessagePack: organisation, units captured, units released, and so on
--   details  MessagePack array, an element for each entry in the order of above, a flat array: of each message
--            its place, organisation, units captured, units released, bytes of its row, and its number among
--            those due again, or, below 0, among the dead letters; 0 for others
-- -> {how many messages counted, the weight that waits behind the ready stream now: see `finish`}
-- What leaves makes room in the ready stream, which is refilled in this step. `mark`: see `aim`.
-- An entry leaves the stream with its last message; which others of a bundle are settled is noted until then.
-- Only messages that this call settles count. A second call counts nothing, and neither does one of a worker
-- whose entries another worker has settled since. `details` are looked at only when not all of them count.
-- `given`: settle messages that no worker has been given. Only those behind this id, the last one that a
-- worker has been given, count.
local function settle(keys, args, given)
  local wholes, bundles, parts = tonumber(args[4]), tonumber(args[5]), tonumber(args[7])
  local dues, deads = tonumber(args[9]), tonumber(args[10])
  local line = line_of(keys, 1, args[3])
  local ids, noted, first = {}, {}, 15
  for i = 1, bundles do noted[i] = note_of(args[first + i - 1]) end
  noted = values_of(line.wait, noted)
  for i = 1, wholes do
    if not noted[i] then ids[#ids + 1] = args[first + i - 1] end
  end
  local counts, plain = {}, false
  if #ids > 0 then counts, plain = settle_whole(line, ids, given) else plain = true end
  plain = plain and #ids == wholes
  local part, found, count = first + wholes, {}, 0
  for i = 1, parts do
    found[i], count = settle_part(line, args[part], tonumber(args[part + 1]), args[part + 2], given)
    plain = plain and count == #args[part + 2]
    part = part + 3
  end

  local counted, rows, row_count = tonumber(args[6]) + tonumber(args[8]), args[12], tonumber(args[11])
  local due, back, dead, flat, summed = {}, {}, {}, nil, args[13]
  local at_due, at_dead = part, part + 2 * dues
  local function put_due(at)
    if args[at] == '0' then
      back[#back + 1] = args[at + 1]
    else
      local n = #due
      due[n + 1], due[n + 2] = args[at], args[at + 1]
    end
  end
  if plain then
    if tonumber(args[6]) > wholes then
      line.bundled, line.changed = line.bundled - tonumber(args[6]) + wholes, true
    end
    for i = at_due, at_dead - 1, 2 do put_due(i) end
    for i = at_dead, at_dead + deads - 1 do dead[#dead + 1] = args[i] end
    flat = cmsgpack.unpack(args[13])
  else
    local sums, order, own_rows, at_row = {}, {}, {}, 1
    counted, row_count = 0, 0
    for i, of in ipairs(cmsgpack.unpack(args[14])) do
      local id = args[first + i - 1]
      local places = found[i - wholes]
      if noted[i] then
        places = {}
        for at = 1, #of, 6 do places[#places + 1] = string.char(of[at]) end
        places = settle_part(line, id, #noted[i], concat(places), given)
      elseif i <= wholes and counts[id] and #of > 6 then
        line.bundled, line.changed = line.bundled - #of / 6 + 1, true
      end
      for at = 1, #of, 6 do
        local place, org, captured, released, size, put = unpack(of, at, at + 5)
        if places and places[place] or not places and counts[id] then
          counted = counted + 1
          if size > 0 then
            row_count = row_count + 1
            own_rows[row_count] = sub(rows, at_row, at_row + size - 1)
          end
          if put > 0 then
            put_due(at_due + 2 * put - 2)
          elseif put < 0 then
            dead[#dead + 1] = args[at_dead - put - 1]
          else
            if not sums[org] then
              sums[org] = {org, 0, 0}
              order[#order + 1] = sums[org]
            end
            sums[org][2], sums[org][3] = sums[org][2] + captured, sums[org][3] + released
          end
        end
        at_row = at_row + size
      end
    end
    rows, flat = concat(own_rows), {}
    for i, sum in ipairs(order) do flat[3 * i - 2], flat[3 * i - 1], flat[3 * i] = unpack(sum) end
    summed = cmsgpack.pack(flat)
  end

  call_with('ZADD', keys[5], due)
  for _, payload in ipairs(dead) do call('XADD', keys[6], '*', 'm', payload) end
  if row_count > 0 then
    call('XADD', keys[7], '*', 'b', '\221' .. struct_pack('>I4', row_count) .. rows)
  end
  if #flat > 0 then
    local held, organisations, units, n = 0, {}, {}, 0
    for i = 1, #flat, 3 do
      local own = flat[i + 1] + flat[i + 2]
      n, held = n + 1, held + own
      organisations[n], units[n] = flat[i], -own
    end
    hold(keys[11], organisations, units)
    local chain = chain_of(keys[8], keys[9])
    append(chain, 'settle', args[1], '0', summed)
    keep(chain)
    call('DECRBY', keys[10], held)
  end
  aim(line, args[2])
  put_all_back(line, back)
  return {counted, finish(line)}
end

-- settle_unread(as settle) -> as settle
-- Settles messages that no worker has been given. One that a worker has been given meanwhile is left to
-- that worker. A second call counts nothing. Whoever is given a bundle of which some messages are settled so
-- does not know that, and ends these again, which counts nothing.
local function settle_unread(keys, args)
  local group = group_of(keys[1])
  return group and settle(keys, args, group['last-delivered-id']) or {0, 0}
end

-- announce(activity, announced; then per event: its number, its row)
-- -> how many were put on the stream
-- Numbers count up; `announced` is the last one that is on the stream. An event that is there already
-- is passed over, whichever ledger sends it again.
local function announce(keys, args)
  local rows, last = {}, call('GET', keys[2]) or '0'
  for i = 1, #args, 2 do
    if tonumber(args[i]) > tonumber(last) then
      rows[#rows + 1] = args[i + 1]
      last = args[i]
    end
  end
  if #rows > 0 then
    call('XADD', keys[1], '*', 'b', array_of(rows))
    call('SET', keys[2], last)
  end
  return #rows
end

-- The organisation and the segments of a payload; nil when it cannot be read.
local function read_payload(payload)
  local readable, message = pcall(cmsgpack.unpack, payload)
  if readable and type(message) == 'table' and tonumber(message[7]) then
    return format('%.0f', message[2]), message[7]
  end
end

-- promote(due, line; now_us, limit, mark, bundle_max)
-- -> {how many came into the line, the weight that waits now}
-- A message comes back into the line as a new one does. One that cannot be read goes to the ready stream,
-- whose reader sets it aside. A bundle is here when a worker of an older version could not read it; of that,
-- the messages that are not settled come back.
local function promote(keys, args)
  local due = call('ZRANGEBYSCORE', keys[1], '-inf', args[1], 'LIMIT', 0, args[2])
  local line = line_of(keys, 2, args[4])
  aim(line, args[3])
  for _, member in ipairs(due) do
    local messages = {}
    each_open(line.wait, member, function(message) messages[#messages + 1] = message end)
    if select(2, count_of(member)) then
      -- Its entry was taken out of the stream.
      line.bundled, line.changed = line.bundled - #messages + 1, true
      call('HDEL', line.wait, note_in(member))
    end
    for _, payload in ipairs(messages) do
      local organisation, segments
      if not is_open_to_all(line) then organisation, segments = read_payload(payload) end
      if organisation then
        enter(line, organisation, segments, record_of(segments, payload))
      else
        make_ready(line, segments or 0, payload)
      end
    end
  end
  call_with('ZREM', keys[1], due)
  return {#due, finish(line)}
end

-- refill(line; mark, bundle_max) -> the weight that waits behind the ready stream now
-- A second call fills up what was read since.
local function refill_line(keys, args)
  local line = line_of(keys, 1, args[2])
  aim(line, args[1])
  return finish(line)
end

-- replay(dead, due, activity; entry id, due_at_us, payload, row)
-- -> 1 when this call replayed the dead letter, else 0
-- Puts a dead letter on the due set as `payload`. Only the call that removes it counts, of this function and of
-- `drop`, so a second call does nothing.
local function replay(keys, args)
  if call('XDEL', keys[1], args[1]) == 0 then return 0 end
  call('ZADD', keys[2], args[2], args[3])
  call('XADD', keys[3], '*', 'b', array_of({args[4]}))
  return 1
end

-- drop(dead, activity, usage, head, held, held by organisation; entry id, organisation, units, row)
-- -> 1 when this call dropped the dead letter, else 0
-- Releases the units of a dead letter. As for `replay`, a second call does nothing.
local function drop(keys, args)
  if call('XDEL', keys[1], args[1]) == 0 then return 0 end
  local units = tonumber(args[3])
  call('XADD', keys[2], '*', 'b', array_of({args[4]}))
  hold(keys[6], {args[2]}, {-units})
  local chain = chain_of(keys[3], keys[4])
  append(chain, 'settle', '', '0', cmsgpack.pack({tonumber(args[2]), 0, units}))
  keep(chain)
  call('DECRBY', keys[5], units)
  return 1
end

-- The id of a message, from the first octets of its payload, and the number that the octets before the id are.
-- Of messages that are due at the same time, Redis keeps those with the same number together, in the order of ids.
local function id_in(payload)
  local array, at = byte(payload, 1), 2
  if array == 220 then
    at = 4
  elseif not array or array < 144 or array > 159 then
    return '', (array or 0) * 4294967296
  end
  local text, size = byte(payload, at), 0
  if text == 217 then
    at = at + 1
    size = byte(payload, at) or 0
  elseif text and text >= 160 and text <= 191 then
    size = text - 160
  end
  local id = sub(payload, at + 1, at + size)
  if at == 3 then return id, ((array * 256 + text) * 256 + size) * 65536 end
  local number = 0
  for i = 1, 5 do number = number * 256 + (i <= at and byte(payload, i) or 0) end
  return id, number
end

-- What is to be canceled: the messages of `organisation` of which `is_wanted(payload)` is true, and then
-- `is_meant(message)`. `needle` is in the payload of each of them.
local function wanted_by(organisation, needle, is_wanted, is_meant)
  local wanted = {needle = needle, canceled = {}, before = {}}
  -- The message in a payload, when it is wanted.
  function wanted.read(payload)
    if not is_wanted(payload) then return end
    local readable, message = pcall(cmsgpack.unpack, payload)
    if readable and type(message) == 'table' and message[2] == organisation and tonumber(message[8])
        and is_meant(message) then
      return message
    end
  end
  -- Whether a payload is one that is wanted, and is no longer where it was. One that a provider may have been given
  -- stays, and is noted in `before`.
  function wanted.take(payload)
    local message = wanted.read(payload)
    if not message then return false end
    local is_new = (message[14] or 0) == 0
    local into = is_new and wanted.canceled or wanted.before
    into[#into + 1] = is_new and message or message[1]
    return is_new
  end
  return wanted
end

-- The messages of `organisation` whose ids are from `first` to `last`.
local function wanted_of(organisation, first, last)
  local shared = 0
  while shared < #first and byte(first, shared + 1) == byte(last, shared + 1) do
    shared = shared + 1
  end
  local function is_between(payload)
    local id = id_in(payload)
    return id >= first and id <= last
  end
  local wanted = wanted_by(organisation, sub(first, 1, shared), is_between, function() return true end)
  wanted.first, wanted.last = first, last
  return wanted
end

-- The messages of a campaign of `organisation`: their reference is its name, or begins with it and a mark between words.
local function wanted_in(organisation, campaign)
  return wanted_by(organisation, campaign, function(payload)
    return string.find(payload, campaign, 1, true)
  end, function(message)
    local reference = type(message[12]) == 'string' and message[12] or ''
    return reference == campaign
      or sub(reference, 1, #campaign) == campaign and string.find(reference, '^[-_/:. ]', #campaign + 1) ~= nil
  end)
end

-- The place of the first member from `low` on and before `high` that is not before this id.
local function due_place(due, low, high, number, id)
  while low < high do
    local middle = floor((low + high) / 2)
    local found, found_number = id_in(call('ZRANGE', due, middle, middle)[1])
    if found_number < number or found_number == number and found < id then low = middle + 1 else high = middle end
  end
  return low
end

-- Cancel messages that are due at `at_us`. They are found by halves, however many others are due then.
local function cancel_due(due, at_us, wanted)
  local low = call('ZCOUNT', due, '-inf', '(' .. at_us)
  local high, gone = low + call('ZCOUNT', due, at_us, at_us), {}
  while low < high do
    local _, number = id_in(call('ZRANGE', due, low, low)[1])
    local _, last_number = id_in(call('ZRANGE', due, high - 1, high - 1)[1])
    local at, over, count = due_place(due, low, high, number, wanted.first), false, 2
    while at < high and not over do
      local page = call('ZRANGE', due, at, min(at + count, high) - 1)
      count = min(2 * count, 100)
      for _, payload in ipairs(page) do
        local id, own = id_in(payload)
        over = over or own ~= number or id > wanted.last
        if not over and wanted.take(payload) then gone[#gone + 1] = payload end
      end
      at = at + #page
    end
    if number == last_number then break end
    low = max(low + 1, due_place(due, low, high, number + 1, ''))
  end
  call_with('ZREM', due, gone)
end

-- Cancel messages of the due set that are at these places in it.
local function cancel_due_at(due, place, places, wanted)
  local gone = {}
  for _, payload in ipairs(call('ZRANGE', due, place, place + places - 1)) do
    if wanted.take(payload) then gone[#gone + 1] = payload end
  end
  call_with('ZREM', due, gone)
end

-- Cancel messages among the last `count` of the due set that are before a place in it: that of (`at_us`, `number`, `id`),
-- as `id_in` gives the last two; id '': before all that is due at `at_us`. Returns the place of the first that was looked
-- at, before which to go on; empty when there is nothing before that.
local function cancel_due_before(due, at_us, number, id, count, wanted)
  local high = call('ZCOUNT', due, '-inf', '(' .. at_us)
  if id ~= '' then
    high = due_place(due, high, high + call('ZCOUNT', due, at_us, at_us), tonumber(number), id)
  end
  if high == 0 then return {} end
  local from, gone = max(0, high - count), {}
  local page, place = call('ZRANGE', due, from, high - 1), {}
  for i = 1, from > 0 and #page or 0 do
    -- What is no message may have anything there.
    local first, first_number = id_in(page[i])
    if #first <= 36 and string.find(first, '^[%w-]+$') then
      place = {call('ZSCORE', due, page[i]), format('%.0f', first_number), first}
      break
    end
  end
  if from > 0 and #place == 0 then place = {call('ZSCORE', due, page[1]), '0', ''} end
  for _, payload in ipairs(page) do
    if wanted.take(payload) then gone[#gone + 1] = payload end
  end
  call_with('ZREM', due, gone)
  return place
end

-- Cancel messages of an entry that no worker has been given. What is left of a bundle is written anew, because
-- whoever reads it is not told what is noted of it.
local function cancel_unread(line, id, payload, wanted)
  local count, is_bundle = count_of(payload)
  if not is_bundle then
    if wanted.take(payload) then call('XDEL', line.sms, id) end
    return
  end
  local name = note_of(id)
  local note, rest, open, at = call('HGET', line.wait, name), {}, 0, 13
  local before = #wanted.canceled
  for place = 1, count do
    local _, size, from = struct_unpack('>HI4', payload, at)
    if not note or sub(note, place, place) == '.' then
      open = open + 1
      if not wanted.take(sub(payload, from, from + size - 1)) then
        rest[#rest + 1] = sub(payload, at, from + size - 1)
      end
    end
    at = from + size
  end
  if #wanted.canceled == before then return end
  call('XDEL', line.sms, id)
  call('HDEL', line.wait, name)
  line.bundled, line.changed = line.bundled - open + 1, true
  if #rest > 0 then make_all_ready(line, concat(rest), #rest) end
end

-- Cancel messages of the ready stream. Returns the ids of those that a worker has in hand.
local function cancel_ready(line, wanted)
  local group = group_of(line.sms)
  local given, from, page = group and group['last-delivered-id'] or '0-0', '-', nil
  local in_hand = {}
  local function note(ids, payload)
    each_open(line.wait, payload, function(message)
      if wanted.read(message) then ids[#ids + 1] = id_in(message) end
    end)
  end
  repeat
    page = call('XRANGE', line.sms, from, '+', 'COUNT', 200)
    for _, entry in ipairs(page) do
      local id, fields = entry[1], entry[2]
      from = '(' .. id
      if string.find(fields[2], wanted.needle, 1, true) then
        if not is_behind(id, given) then
          note(in_hand, fields[2])
        elseif fields[4] then
          note(wanted.before, fields[2])
        else
          cancel_unread(line, id, fields[2], wanted)
        end
      end
    end
  until #page < 200
  return in_hand
end

-- The chunk of a list in which a message is likely that came to it as one with the id `near` would have.
local function likely_chunk(line, list, near)
  local low, high = list.first, list.last
  while low < high do
    local middle = math.ceil((low + high) / 2)
    local n, chunk = middle, nil
    repeat
      chunk = call('HGET', line.wait, chunk_name(list, n))
      n = n + 1
    until chunk or n > high
    local at = n - 1 == list.first and list.taken + 1 or 1
    if chunk and id_in(sub(chunk, at + 6, at + 90)) <= near then low = n - 1 else high = middle - 1 end
  end
  return low
end

-- Cancel messages that wait in `count` chunks of the list, from `chunk` on; '': around the one that is likely for
-- `near`. Returns the first and the last chunk of the list, and the first and the last of those looked at; zeros
-- when there is no list.
local function cancel_waiting(line, organisation, wanted, near, chunk, count)
  local list = list_of(line, organisation)
  if list.messages == 0 then return 0, 0, 0, 0 end
  local from = tonumber(chunk) or likely_chunk(line, list, near) - floor(count / 4)
  from = max(list.first, min(from, list.last))
  local to, names = min(from + count - 1, list.last), {}
  for n = from, to do names[#names + 1] = chunk_name(list, n) end
  for i, records in ipairs(values_of(line.wait, names)) do
    local n = from + i - 1
    local at, rest, before = n == list.first and list.taken + 1 or 1, {}, #wanted.canceled
    if records and string.find(records, wanted.needle, 1, true) then
      while at <= #records do
        local segments, size, start = struct_unpack('>HI4', records, at)
        if wanted.take(sub(records, start, start + size - 1)) then
          count_waiting(line, list, -1, -segments)
        else
          rest[#rest + 1] = sub(records, at, start + size - 1)
        end
        at = start + size
      end
    end
    if #wanted.canceled > before then
      rest = concat(rest)
      if rest == '' then
        call('HDEL', line.wait, names[i])
      else
        call('HSET', line.wait, names[i], rest)
      end
      if n == list.first then list.taken = 0 end
      if n == list.last then list.tail = rest == '' and CHUNK or #rest end
    end
  end
  if list.messages == 0 and not list.paused then
    list.start = tonumber(call('ZSCORE', line.turns, organisation))
  end
  return list.first, list.last, from, to
end

-- Give the units of what was canceled back, and record it: `keys` are those of `cancel`. Returns the ids, and the units.
local function record_canceled(keys, queue, organisation, now_us, wanted)
  local ids, rows, units = {}, {}, 0
  for i, m in ipairs(wanted.canceled) do
    ids[i], units = m[1], units + m[8]
    rows[i] = cmsgpack.pack({
      max(tonumber(now_us), m[9]), m[2], m[1], m[9], 'canceled', queue, m[3], m[5], m[6], m[7], m[8],
      m[11] or 0, '', '', '', 0, m[12] or '', 0, 0, false, 0, '', m[15] or '',
    })
  end
  if #ids > 0 then
    call('XADD', keys[6], '*', 'b', array_of(rows))
    hold(keys[10], {organisation}, {-units})
    local chain = chain_of(keys[7], keys[8])
    append(chain, 'settle', '', '0', cmsgpack.pack({tonumber(organisation), 0, units}))
    keep(chain)
    call('DECRBY', keys[9], units)
  end
  return ids, units
end

-- cancel(line, due, activity, usage, head, held, held by organisation; queue, organisation, first id, last id,
--        now_us, bundle_max, near, chunk, chunks, place, places, due_at_us ...)
-- -> {ids that were canceled, ids that a worker has in hand, ids that a provider may have been given before, then
--     what `cancel_waiting` returns}
-- Takes messages of an organisation that no worker has been given from where they wait, with their units, and
-- records it. They are looked for in the ready stream, in the due set at each `due_at_us` and at the places
-- from `place` on, and in the list: see `cancel_waiting`. So what a call costs does not grow with what waits.
-- A message is canceled only where it is found, and a worker is given only what is in the stream, so it is either
-- canceled or sent. A second call finds nothing.
local function cancel(keys, args)
  local organisation, line = args[2], line_of(keys, 1, args[6])
  local wanted = wanted_of(tonumber(organisation), args[3], args[4])
  for i = 12, #args do cancel_due(keys[5], args[i], wanted) end
  if tonumber(args[11]) > 0 then cancel_due_at(keys[5], tonumber(args[10]), tonumber(args[11]), wanted) end
  local in_hand = cancel_ready(line, wanted)
  local first, last, from, to = cancel_waiting(line, organisation, wanted, args[7], args[8], tonumber(args[9]))
  local ids = record_canceled(keys, args[1], organisation, args[5], wanted)
  finish(line)
  return {ids, in_hand, wanted.before, first, last, from, to}
end

-- cancel_campaign(the keys of `cancel`; queue, organisation, campaign, now_us, bundle_max, where, count, place ...)
-- -> {ids that were canceled, their units, ids that a worker has in hand, ids that a provider may have been given
--     before, the place to go on from}
-- The same for the messages of a campaign, in one of the places where messages wait: `where` is
--   due     and `place` is (at_us, number, id): see `cancel_due_before`
--   list    and `place` is the last of `count` chunks of the organisation's list
--   ready   all of the ready stream
-- The place to go on from is empty at the end of `where`. Who goes through these in this order, and each from behind,
-- comes upon every message that waited before: what moves on meanwhile goes from `due` to the end of the list, from its
-- front to the ready stream, and from there to a worker.
local function cancel_campaign(keys, args)
  local organisation, line = args[2], line_of(keys, 1, args[5])
  local wanted, count = wanted_in(tonumber(organisation), args[3]), tonumber(args[7])
  local in_hand, place = {}, {}
  if args[6] == 'due' then
    place = cancel_due_before(keys[5], args[8], args[9], args[10], count, wanted)
  elseif args[6] == 'list' then
    local list = list_of(line, organisation)
    local chunk = min(tonumber(args[8]), list.last)
    local from = max(list.first, chunk - count + 1)
    if list.messages > 0 and chunk >= from then
      cancel_waiting(line, organisation, wanted, '', from, chunk - from + 1)
      if from > list.first then place = {format('%.0f', from - 1)} end
    end
  else
    in_hand = cancel_ready(line, wanted)
  end
  local ids, units = record_canceled(keys, args[1], organisation, args[4], wanted)
  finish(line)
  return {ids, units, in_hand, wanted.before, place}
end

-- make_group(sms) -> 1 when this call made the consumer group, 0 when it was there
-- The group begins at the first entry of the stream.
local function make_group(keys)
  local made = redis.pcall('XGROUP', 'CREATE', keys[1], GROUP, '0', 'MKSTREAM')
  if made.ok then return 1 end
  if string.find(made.err, 'BUSYGROUP', 1, true) then return 0 end
  return made
end

-- take_over(line, holders; name, min_idle_ms, limit, suspects, deliveries_max)
-- -> {{{entry id, fields, deliveries of this entry} ...}, how many suspects were passed over,
--     how many messages were taken out of bundles}
-- Takes the entries of fenced workers, and entries that have been idle for `min_idle_ms` with a
-- living one. Removes fenced workers that have no entries left from the group.
--
-- When a worker dies, each of its entries has been delivered once more, and at most one of them has
-- killed it. An entry that becomes a dead letter with its next delivery is a *suspect*. At most
-- `suspects` of them are taken. The others stay where they are, and their deliveries do not count up,
-- until the ones taken are settled.
--
-- A bundle is taken apart instead: each message that is not settled goes to the end of the ready stream, in an
-- entry of its own that says how often the message was delivered, and in which entry. So one message that kills workers takes no
-- others along. At most MOVED_MAX messages, and those of one bundle, are moved in a step.
local function take_over(keys, args)
  local name, limit, suspects = args[1], tonumber(args[3]), tonumber(args[4])
  -- A worker of an older version does not send `deliveries_max`.
  local last_chance = tonumber(args[5] or '3') - 1
  local line = line_of(keys, 1)
  local taken, passed, apart = {}, 0, 0
  local function take_apart(id, payload, deliveries)
    each_open(line.wait, payload, function(message)
      add_entry(line, message, 1, deliveries, id)
      apart, line.bundled = apart + 1, line.bundled - 1
    end)
    call('XACK', line.sms, GROUP, id)
    call('XDEL', line.sms, id)
    call('HDEL', line.wait, note_of(id))
    line.bundled = line.bundled + 1
  end
  local function claim(consumer, min_idle)
    local from, pending = '-', nil
    repeat
      pending = call('XPENDING', line.sms, GROUP, 'IDLE', min_idle, from, '+', limit, consumer)
      for _, p in ipairs(pending) do
        if #taken == limit or apart >= MOVED_MAX then return end
        local entry = call('XRANGE', line.sms, p[1], p[1])[1]
        local fields = entry and entry[2] or {}
        local deliveries = p[4] + (fields[4] or 0)
        local _, is_bundle = count_of(fields[2] or '')
        if is_bundle then
          take_apart(p[1], fields[2], deliveries)
        elseif deliveries == last_chance and suspects == 0 then
          passed = passed + 1
        else
          local claimed = call('XCLAIM', line.sms, GROUP, name, min_idle, p[1])
          if claimed[1] then
            taken[#taken + 1] = {p[1], fields, p[4] + 1}
            if deliveries == last_chance then suspects = suspects - 1 end
          end
        end
        from = '(' .. p[1]
      end
    until #pending < limit
  end
  for _, info in ipairs(call('XINFO', 'CONSUMERS', line.sms, GROUP)) do
    local consumer, pending = info[2], info[4]
    if consumer ~= name and #taken < limit then
      if call('HEXISTS', keys[5], consumer) == 1 then
        if pending > 0 then claim(consumer, args[2]) end
      elseif pending > 0 then
        claim(consumer, 0)
      else
        call('XGROUP', 'DELCONSUMER', line.sms, GROUP, consumer)
      end
    end
  end
  keep_ready(line)
  return {taken, passed, apart}
end

-- sift(line; cursor, chunks, bundle_max) -> {next cursor ('0' at the end), how many were moved}
-- Looks at about so many chunks of the lists, and moves messages whose validity is over to the ready stream,
-- whoever's turn it is. Whoever is given one ends it, and so does a look at what is unread.
-- A second call looks at the same chunks, and finds nothing more in them.
local function sift(keys, args)
  local line, now_us, over, seen = line_of(keys, 1, args[3]), now_ms() * 1000, {}, {}
  local page = call('HSCAN', line.wait, args[1], 'COUNT', args[2])
  for i = 1, #page[2], 2 do
    local field, chunk = page[2][i], page[2][i + 1]
    local organisation, n = match(field, '^(%d+):(%d+)$')
    if organisation and not seen[field] then
      seen[field], n = true, tonumber(n)
      local list, rest = list_of(line, organisation), {}
      local at, before = n == list.first and list.taken + 1 or 1, #over
      while at <= #chunk do
        local segments, size, from = struct_unpack('>HI4', chunk, at)
        local payload = sub(chunk, from, from + size - 1)
        local readable, message = pcall(cmsgpack.unpack, payload)
        if readable and message[10] <= now_us then
          over[#over + 1] = sub(chunk, at, from + size - 1)
          count_waiting(line, list, -1, -segments)
        else
          rest[#rest + 1] = sub(chunk, at, from + size - 1)
        end
        at = from + size
      end
      if #over > before then
        rest = concat(rest)
        if rest == '' then call('HDEL', line.wait, field) else call('HSET', line.wait, field, rest) end
        if n == list.first then list.taken = 0 end
        -- Nothing is appended to a chunk that is gone.
        if n == list.last then list.tail = rest == '' and CHUNK or #rest end
        if list.messages == 0 and not list.paused then
          list.start = tonumber(call('ZSCORE', line.turns, organisation))
        end
      end
    end
  end
  table.sort(over)
  for _, record in ipairs(over) do bundle(line, record, 1) end
  finish(line)
  return {page[1], #over}
end

-- The organisations that are paused, and by organisation what `limits` says of its pause.
local function paused_of(limits)
  local found, notes = {}, {}
  for note in string.gmatch(call('HGET', limits, 'paused') or '', '%S+') do
    local organisation = match(note, '^%d+')
    found[#found + 1] = organisation
    notes[organisation] = note
  end
  return found, notes
end

-- Put limits of one organisation in force in one line; what waits takes its turns by them from then on.
local function limit_turns(keys, first, organisation, weight, paused)
  local wait, turns, ahead = keys[first + 1], keys[first + 2], keys[first + 3]
  local name = limits_name(organisation)
  local known = call('HMGET', wait, organisation, name, 'time')
  local weight_before, paused_before = read_limits(known[2])
  if weight == weight_before and paused == paused_before then return end
  if weight == 1 and not paused then
    call('HDEL', wait, name)
  else
    call('HSET', wait, name, format('%.17g', weight) .. (paused and ' paused' or ''))
  end
  count_in(wait, 'limited', ((weight ~= 1 or paused) and 1 or 0) - (known[2] and 1 or 0))
  count_in(wait, 'paused', (paused and 1 or 0) - (paused_before and 1 or 0))
  if not known[1] then return end
  local messages = cmsgpack.unpack(known[1])[5]
  local extra = (paused and 0 or weight - 1) - (paused_before and 0 or weight_before - 1)
  if extra ~= 0 then call('HINCRBYFLOAT', wait, 'extra', extra) end
  if paused == paused_before then return end
  -- While it is paused it is like one that has no list: what it was served ahead is kept in `ahead`.
  local from, to = ahead, turns
  if paused then from, to = turns, ahead end
  local start = max(tonumber(known[3] or 0), tonumber(call('ZSCORE', from, organisation) or 0))
  call('ZREM', from, organisation)
  call('ZADD', to, format('%.17g', start), organisation)
  count_in(wait, 'parked', paused and messages or -messages)
  call('HINCRBY', wait, 'messages', paused and -messages or messages)
end

-- The last ids that the ready streams of both queues gave, each behind a colon. `keys`: as for `limit`.
local function last_ids(keys)
  local found = ''
  for first = 2, 6, 4 do
    found = found .. ':' .. (stream_of(keys[first])['last-generated-id'] or '0-0')
  end
  return found
end

-- limit(limits, line express, line normal; known, version, whole, then per organisation: itself, weight,
--       '1' when it is paused, else '')
-- -> 1 when these limits are in force now, 0 when others are than those that the caller has seen: `known` is
--    their version, '' for none
-- `whole`, '1': organisations that are not named have no limits of their own any more; '': they keep theirs.
-- An organisation without limits has the weight 1 and is not paused. A second call does nothing.
--   limits  hash: version          of the limits that are in force
--                 paused           the organisations that are paused, with blanks between, and of each the last ids
--                                  that the ready streams had given by then: <organisation>:<express>:<normal>
--                 <organisation>   those that have limits
--                 rate:<organisation>   its bucket: see `draw`
local function limit(keys, args)
  if (call('HGET', keys[1], 'version') or '') ~= args[1] then return 0 end
  local rows, named, paused, last = {}, {}, {}, nil
  for i = 4, #args, 3 do
    rows[#rows + 1] = {args[i], tonumber(args[i + 1]), args[i + 2] == '1'}
    named[args[i]] = true
  end
  if args[3] == '1' then
    for _, organisation in ipairs(call('HKEYS', keys[1])) do
      if match(organisation, '^%d+$') and not named[organisation] then
        rows[#rows + 1] = {organisation, 1, false}
        named[organisation] = true
      end
    end
  end
  local paused_before, notes = paused_of(keys[1])
  for _, organisation in ipairs(paused_before) do
    if not named[organisation] then paused[#paused + 1] = notes[organisation] end
  end
  for _, row in ipairs(rows) do
    if row[3] then
      last = last or last_ids(keys)
      paused[#paused + 1] = notes[row[1]] or row[1] .. last
    end
    if row[2] == 1 and not row[3] then
      call('HDEL', keys[1], row[1])
    else
      call('HSET', keys[1], row[1], '')
    end
  end
  call('HSET', keys[1], 'version', args[2], 'paused', concat(paused, ' '))
  for first = 2, 6, 4 do
    for _, row in ipairs(rows) do limit_turns(keys, first, row[1], row[2], row[3]) end
    local line = line_of(keys, first)
    line.busy, line.known = line.busy or line.messages > 0, {}
    finish(line)
  end
  return 1
end

-- What is known of the backlog of one organisation: its messages, segments, and segments that were moved
-- lately; and its list. Nothing when it has none.
local function backlog_of(wait, organisation, at_s)
  local kept = call('HGET', wait, organisation)
  if not kept then return end
  local of = cmsgpack.unpack(kept)
  return of[5], of[6], moved_lately({of[7] or 0, of[8] or 0, of[9] or 0}, at_s), of
end

-- backlog(line, limits; organisations_max)
-- -> {messages in lists, of those of paused organisations, segments moved lately, {{organisation, messages,
--     segments, accepted_at_us of its oldest, segments moved lately, weight as text, 1 when it is paused} ...},
--     messages in the ready stream that a worker has been given, and that none has}
-- The organisations that have a list, in the order of their turns, up to `organisations_max`, and then as many
-- of those that are paused. It reads only.
-- A list keeps the order of admission, so its first message is its oldest, retries aside.
local function backlog(keys, args)
  local found, at_s = {}, floor(now_ms() / 1000)
  local function show(organisation)
    local messages, segments, moved, of = backlog_of(keys[2], organisation, at_s)
    if not messages then return end
    local chunk = first_chunk(keys[2], {organisation = organisation, first = of[1]})
    local _, size, from = struct_unpack('>HI4', chunk, of[3] + 1)
    local message = cmsgpack.unpack(sub(chunk, from, from + size - 1))
    local weight, paused = read_limits(call('HGET', keys[2], limits_name(organisation)))
    found[#found + 1] = {
      tonumber(organisation), messages, segments, message[9], moved, tostring(weight), paused and 1 or 0,
    }
  end
  for _, organisation in ipairs(call('ZRANGE', keys[3], 0, args[1] - 1)) do show(organisation) end
  local paused = paused_of(keys[5])
  for i = 1, min(#paused, args[1]) do show(paused[i]) end
  local known = call('HMGET', keys[2], 'parked', 'moved')
  local parked, line = tonumber(known[1] or 0), line_of(keys, 1)
  local unread = count_unread(line)
  return {
    line.messages + parked, parked, known[2] and moved_lately(cmsgpack.unpack(known[2]), at_s) or 0, found,
    call('XLEN', line.sms) + line.bundled - unread, unread,
  }
end

-- backlogs(wait express, wait normal; organisations ...)
-- -> for each organisation {messages in its lists, segments, segments moved lately, 1 when it is paused}
-- It reads only.
local function backlogs(keys, args)
  local found, at_s = {}, floor(now_ms() / 1000)
  for i, organisation in ipairs(args) do
    local sums = {0, 0, 0, 0}
    for _, wait in ipairs(keys) do
      local messages, segments, moved = backlog_of(wait, organisation, at_s)
      if messages then sums[1], sums[2], sums[3] = sums[1] + messages, sums[2] + segments, sums[3] + moved end
    end
    local _, paused = read_limits(call('HGET', keys[2], limits_name(organisation)))
    if paused then sums[4] = 1 end
    found[i] = sums
  end
  return found
end

-- Call `read` with each payload in the lists of a line.
local function each_waiting(wait, read)
  local flat, fields = call('HGETALL', wait), {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  for organisation, kept in pairs(fields) do
    if match(organisation, '^%d+$') then
      local of = cmsgpack.unpack(kept)
      for n = of[1], of[2] do
        local chunk = fields[organisation .. ':' .. format('%.0f', n)] or ''
        local at = n == of[1] and of[3] + 1 or 1
        while at <= #chunk do
          local _, size, from = struct_unpack('>HI4', chunk, at)
          read(sub(chunk, from, from + size - 1))
          at = from + size
        end
      end
    end
  end
end

-- Call `count` with the organisation and the units of each message in these streams, sorted sets and lists.
-- The first of `streams` are the ready streams of the lines of `waits`, and `sets` their due sets.
-- A payload that cannot be read is passed over: a dead letter may be such a one.
local function each_message(streams, sets, waits, count)
  local function read(payload)
    local readable, message = pcall(cmsgpack.unpack, payload)
    if readable and type(message) == 'table' and tonumber(message[8]) then
      count(message[2], message[8])
    end
  end
  for i, key in ipairs(streams) do
    for _, entry in ipairs(call('XRANGE', key, '-', '+')) do
      each_open(waits[i], entry[2][2], read)
    end
  end
  for i, key in ipairs(sets) do
    for _, payload in ipairs(call('ZRANGE', key, 0, -1)) do each_open(waits[i], payload, read) end
  end
  for _, key in ipairs(waits) do each_waiting(key, read) end
end

-- tally(held, held by organisation, sms express, sms normal, due express, due normal, dead express,
--       dead normal, wait express, wait normal)
-- -> array of {organisation, units} that the messages here hold
-- The answer is `by`, when it adds up to the sum. It does not when an older version of the
-- engine, which kept the sum alone, wrote here last. Then all messages are read, once, and both are
-- written anew. That takes 5 µs a message, during which Redis serves nobody else.
local function tally(keys)
  local by, sums, total = keys[2], {}, 0
  local flat = call('HGETALL', by)
  for i = 1, #flat, 2 do
    sums[#sums + 1] = {tonumber(flat[i]), tonumber(flat[i + 1])}
    total = total + flat[i + 1]
  end
  if total == tonumber(call('GET', keys[1]) or '0') then return sums end

  local at
  sums, at, total = {}, {}, 0
  local streams, sets, waits = {keys[3], keys[4], keys[7], keys[8]}, {keys[5], keys[6]}, {keys[9], keys[10]}
  each_message(streams, sets, waits, function(organisation, units)
    if not at[organisation] then
      at[organisation] = {organisation, 0}
      sums[#sums + 1] = at[organisation]
    end
    at[organisation][2] = at[organisation][2] + units
    total = total + units
  end)
  call('DEL', by)
  call('SET', keys[1], total)
  for _, sum in ipairs(sums) do
    if sum[2] ~= 0 then call('HSET', by, sum[1], sum[2]) end
  end
  return sums
end

-- seal(generation, holders, usage, head, then holder and inbox of each of `names`;
--      generation seen ('' for none), fresh generation, the books' generation, position and link,
--      names ...)
-- -> where the entries of the usage stream begin that the books have not applied, as a start for
--    XRANGE. 0 when `names` are not all the holders: the caller reads them again. Nothing when the
--    shard's generation is not the one seen: the call is late, and another ledger has gone on.
-- The first of two steps that close a shard. It ends the epoch of every holder. From then on nothing
-- but settlements is appended, until `begin`. A second call before `close` has the same answer.
local function seal(keys, args)
  local seen = call('GET', keys[1]) or ''
  if seen ~= args[1] then return false end
  if call('HLEN', keys[2]) ~= #args - 5 then return 0 end
  for i = 6, #args do
    if call('HEXISTS', keys[2], args[i]) == 0 then return 0 end
  end
  call('SET', keys[1], 'closing:' .. args[2])
  for i = 5, #keys, 2 do
    call('HINCRBY', keys[i], 'epoch', 1)
    call('DEL', keys[i + 1])
  end
  call('DEL', keys[2])

  local from = call('HGET', keys[4], 'from')
  if from then return from end
  local chain = chain_of(keys[3], keys[4])
  if link_at(chain, args[4]) == args[5] then
    from = '(' .. args[4]
  elseif sub(seen, 1, 8) == 'closing:' and seen ~= 'closing:' .. args[3] then
    -- An earlier close that the books do not know of has begun this stream.
    from = '-'
  else
    from = '(' .. (chain.since or stream_of(keys[3])['last-generated-id'] or '0-0')
  end
  call('HSET', keys[4], 'from', from)
  return from
end

-- close(generation, usage, head, held, held by organisation, sms express, sms normal, due express,
--       due normal, dead express, dead normal, wait express, wait normal; fresh generation, from where on
--       the usage was not read yet, then per organisation: itself, units used, captured and released in
--       what was read)
-- -> array of {organisation, units, news}. `units`: what the messages still here hold, and what
--    settlements that the books have not applied took from that. `news`: how much of it was held by
--    usage that the books have not applied.
--    Nothing when the shard was not sealed for this generation, or another ledger has gone on.
-- Begins the usage stream anew with those settlements as one entry. A second call before the books
-- are closed keeps the settlements that came in between. The caller has read the usage page by page
-- before, so that this step has few entries to read.
local function close(keys, args)
  if call('GET', keys[1]) ~= 'closing:' .. args[1] then return false end
  local sums, order = {}, {}
  local function of(organisation)
    if not sums[organisation] then
      sums[organisation] = {organisation, 0, 0, 0, 0}
      order[#order + 1] = sums[organisation]
    end
    return sums[organisation]
  end
  local function add(organisation, used, captured, released)
    local sum = of(organisation)
    sum[3], sum[4], sum[5] = sum[3] + used, sum[4] + captured, sum[5] + released
  end
  for i = 3, #args, 4 do
    add(tonumber(args[i]), tonumber(args[i + 1]), tonumber(args[i + 2]), tonumber(args[i + 3]))
  end
  for _, entry in ipairs(call('XRANGE', keys[2], args[2], '+')) do
    local kind = entry[2][2]
    local entry_units = (kind == 'usage' or kind == 'settle') and cmsgpack.unpack(entry[2][8]) or {}
    if kind == 'usage' then
      for i = 1, #entry_units, 2 do add(entry_units[i], entry_units[i + 1], 0, 0) end
    else
      for i = 1, #entry_units, 3 do add(entry_units[i], 0, entry_units[i + 1], entry_units[i + 2]) end
    end
  end

  local flat, left = {}, {}
  for _, sum in ipairs(order) do
    local n = #flat
    if sum[4] + sum[5] > 0 then flat[n + 1], flat[n + 2], flat[n + 3] = sum[1], sum[4], sum[5] end
  end
  for _, held in ipairs(tally({unpack(keys, 4)})) do of(held[1])[2] = held[2] end
  for i, sum in ipairs(order) do left[i] = {sum[1], sum[2] + sum[4] + sum[5], sum[3]} end
  -- The note tells the next ledger who went back, should this one end before the books are closed.
  local books = call('HGET', keys[3], 'books')
  call('UNLINK', keys[2], keys[3])
  if books then call('HSET', keys[3], 'books', books) end
  local chain = {usage = keys[2], head = keys[3], link = args[1]}
  if #flat > 0 then append(chain, 'settle', '', '0', cmsgpack.pack(flat)) end
  call('HSET', keys[3], 'link', chain.link, 'run', run_id())
  return left
end

-- begin(generation, head; name, run) -> 1 when the shard has this generation now and admits, else 0
-- It is given the name only when it was closed for that name, has it already, or never had one: a
-- late call must not bring back an earlier generation. `run` must be the present run of Redis, the
-- one that the ledger has looked at.
local function begin(keys, args)
  local seen = call('GET', keys[1])
  if args[2] ~= run_id() then return 0 end
  if seen and seen ~= args[1] then
    if seen ~= 'closing:' .. args[1] then return 0 end
  end
  call('SET', keys[1], args[1])
  call('HSET', keys[2], 'run', args[2])
  call('HDEL', keys[2], 'since')
  return 1
end

-- cut(sms express, sms normal, due express, due normal, dead express, dead normal,
--     wait express, wait normal, activity, usage, head, held;
--     position ('' when the books cannot be read), link, rows_max, entries_max)
-- -> {state, held, usage entries behind `position`, waiting, recount, first activity id,
--     activity sums}
-- The state of a shard at one instant, for the audit. It reads only.
--   state         0 when the usage stream goes on from `position`, or the books cannot be read; 1 when
--                 it does not, because entries after `position` were trimmed or Redis went back to an
--                 older state; 2 when it has more than `entries_max` entries after `position`
--   waiting       how many messages there are; `recount` is the sum of their units, -1 when there are
--                 more than `rows_max`
--   first         id of the first activity entry; with a `+` behind it, the last id that the stream
--                 ever gave, when no entry is there; '' when there is no stream
--   activity sums MessagePack array of {organisation, event, units} of the activity on the stream, ''
--                 when that has more than `rows_max` rows
-- While it runs, Redis serves nobody else, so the bounds keep it short.
local function cut(keys, args)
  local position, rows_max, entries_max = args[1], tonumber(args[3]), tonumber(args[4])

  local state, usage = 0, {}
  if position ~= '' and link_at(chain_of(keys[10], keys[11]), position) ~= args[2] then
    state = 1
  elseif position ~= '' then
    usage = call('XRANGE', keys[10], '(' .. position, '+', 'COUNT', entries_max + 1)
    if #usage > entries_max then state, usage = 2, {} end
  end

  local waiting, recount = 0, 0
  for _, i in ipairs({1, 2, 5, 6}) do waiting = waiting + call('XLEN', keys[i]) end
  for _, i in ipairs({3, 4}) do waiting = waiting + call('ZCARD', keys[i]) end
  for _, i in ipairs({7, 8}) do
    for _, count in ipairs({'messages', 'parked', 'bundled'}) do
      waiting = waiting + (call('HGET', keys[i], count) or 0)
    end
  end
  if waiting > rows_max then
    recount = -1
  else
    local streams, sets, waits = {keys[1], keys[2], keys[5], keys[6]}, {keys[3], keys[4]}, {keys[7], keys[8]}
    each_message(streams, sets, waits, function(_, units) recount = recount + units end)
  end

  local first, sums = '', ''
  local activity = stream_of(keys[9])
  if activity['length'] == 0 then
    first = activity['last-generated-id'] .. '+'
  elseif activity['length'] then
    first = activity['first-entry'][1]
  end
  if position ~= '' and (activity['length'] or 0) <= rows_max then
    local totals, order, rows = {}, {}, 0
    for _, entry in ipairs(call('XRANGE', keys[9], '-', '+')) do
      local readable, batch = pcall(cmsgpack.unpack, entry[2][2])
      -- The archiver moves an entry that cannot be read aside; it has no rows here.
      if not readable then batch = {} end
      rows = rows + #batch
      if rows > rows_max then break end
      for _, row in ipairs(batch) do
        local name = row[2] .. ' ' .. row[5]
        if not totals[name] then
          totals[name] = {row[2], row[5], 0}
          order[#order + 1] = totals[name]
        end
        totals[name][3] = totals[name][3] + row[11]
      end
    end
    if rows <= rows_max then sums = #order > 0 and cmsgpack.pack(order) or '\144' end
  end
  return {state, call('GET', keys[12]) or '0', usage, waiting, recount, first, sums}
end

-- At `maxmemory` Redis refuses every function that may write, unless it has the flag `allow-oom`.
-- The function that takes in messages has no flag and is refused. All others go on, because they free
-- memory, guard money, or add very little. The reason stands above each.
local function offer(name, step, flag)
  local function callback(keys, args)
    if not call then look_up() end
    return step(keys, args)
  end
  redis.register_function({function_name = name .. VERSION, callback = callback, flags = {flag}})
end

-- Reads only.
offer('cut', cut, 'no-writes')
offer('unread', unread, 'no-writes')
offer('due_in', due_in, 'no-writes')
offer('unread_in', unread_in, 'no-writes')
offer('pending_in', pending_in, 'no-writes')
offer('backlog', backlog, 'no-writes')
offer('backlogs', backlogs, 'no-writes')
-- Writes over times only, and holders that have died are found by it.
offer('overdue', overdue, 'allow-oom')
-- Takes in messages: the one function without a flag. `report` is the same function for a flush
-- without messages. Its requests and returns move units between holders, a few hundred bytes each.
offer('admit', admit)
offer('report', admit, 'allow-oom')
-- Frees memory: every settled message leaves its queue. It adds at most one activity row a message,
-- and one usage entry a call.
offer('settle', settle, 'allow-oom')
offer('settle_unread', settle_unread, 'allow-oom')
-- Frees memory, but for one activity row and one usage entry a call.
offer('drop', drop, 'allow-oom')
offer('cancel', cancel, 'allow-oom')
offer('cancel_campaign', cancel_campaign, 'allow-oom')
-- Move messages from one place to another.
offer('replay', replay, 'allow-oom')
offer('promote', promote, 'allow-oom')
offer('refill', refill_line, 'allow-oom')
offer('sift', sift, 'allow-oom')
-- Moves messages from one place to another, and writes a few bytes for each organisation that has limits.
offer('limit', limit, 'allow-oom')
-- Gives the entries of dead workers to workers that settle them.
offer('take_over', take_over, 'allow-oom')
-- Writes once for each queue and shard. A worker that starts while Redis is full must be able to read.
offer('make_group', make_group, 'allow-oom')
-- Writes one small hash for each process. Without it a replaced process could not drain anything.
offer('register', register, 'allow-oom')
-- Overwrites one number. Without it every holder would be fenced after a while.
offer('beat', beat, 'allow-oom')
-- Guards money: the quota of a dead holder becomes available again, and is never spent twice. Frees
-- the inbox.
offer('fence', fence, 'allow-oom')
-- Rewrites one hash.
offer('tally', tally, 'allow-oom')
-- Guard money, and free the usage stream: they close the books of a lost shard and open it again.
offer('seal', seal, 'allow-oom')
offer('close', close, 'allow-oom')
offer('begin', begin, 'allow-oom')
-- Adds one row for each organisation whose balance has become low.
offer('announce', announce, 'allow-oom')
