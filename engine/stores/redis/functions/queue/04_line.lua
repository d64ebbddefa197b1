-- The line of a queue of one shard: the ready stream, which workers read, and behind it a backlog for each
-- organisation. docs/queue.md has the rule, its source, and what follows from it.
--
-- An entry goes to the ready stream as long as nobody waits behind it and it holds fewer messages that no worker
-- has been given than its mark. Otherwise the organisation's messages wait in a list of its own,
-- and it takes its turn at a virtual start time (start-time fair queueing): the time of the turn before,
-- plus the segments that it was served since divided by its weight, and no earlier than the virtual time now.
-- The messages of an organisation that is paused wait in its list, and it has no turn.
-- Messages that workers put off wait in lists of their own: see 07_put_off.lua.
--   sms    the ready stream. An entry has one message or a bundle of several, in the field `m`. When its message
--          was given to a worker in a bundle before, the field `d` says how often, and `i` has the id of the entry in
--          which it became ready. An entry that `cancel` has written again has that `i` too, and `d` is 0 where no
--          worker was given it. Of messages that were put off before, the field `w` has their way, `d` is 0, and `i`
--          is empty unless they were written again.
--   wait   hash:  messages         how many messages wait in all lists
--                 bundled          how many more messages than entries the ready stream holds: the messages that
--                                  are not settled, less 1 for each entry
--                 number           of the last message that was made ready; see `add_entry`
--                 run              the run of Redis in which an entry was last written; see `move_on`
--                 part:<number>    of the bundle whose last message has the number: which of its messages are
--                                  settled, a character each, '.' for not settled, 'x' for settled; none: none
--                 time             the virtual time: the start time of the last message that was moved
--                 mark             how many messages the ready stream shall hold, as a worker said last; 0: those that
--                                  wait in lists are left there until a worker takes them, see `refill_line`
--                 moment           how many messages are sent in 20 ms, as a worker said last; none: as the mark
--                 parked           how many messages wait in lists of paused organisations; `messages` is without
--                 paused, limited  how many organisations are paused, and how many have a field `limits:`
--                 limits:<organisation>   its weight, with ' paused' behind it when it is paused; none: weight 1
--                 extra            the weights of those that have a turn, less 1 for each of them
--                 moved            segments that left lists by their turn, MessagePack: see `moved_in` and `stretched`
--                 <organisation>   its list, MessagePack: {first chunk, last chunk, bytes taken of the first,
--                                  bytes of the last, messages, segments, and segments moved as in `moved`};
--                                  see `kept_of`
--                 <organisation>:<n>   a chunk: messages one behind another, each with its segments and its
--                                  size before it
--   turns  sorted set: each organisation with a list, by the start time of its next message
--   ahead  sorted set: each organisation without a list that was served ahead of the virtual time, by the
--          start time of its next message
-- A *busy period* begins when the ready stream is full. It ends when nobody waits and the stream has room.
-- The virtual times are forgotten then.
local MARK = 128
-- A chunk is closed when it has so many bytes: the second, when turns take few messages of a list. The larger, the
-- less memory a message takes; the smaller, the less is read for a turn. See `fits`.
local CHUNK = 8000
local CHUNK_SMALL = 1250
local CHUNK_SMALL_MOST = 1500
-- The turns of all that wait come to so many moments, segments, about a tenth of a second of what is sent, or to TURN
-- segments each, whichever is more. So a step touches few lists. But a turn is no more than weight 1 is served in
-- STRETCH moments, which is a sixteenth of ten seconds, nor than a part TURNS_MIN of the mark. It has a message at least.
-- Where a moment has MUCH messages, it is twice as many moments, because it costs most to find a list for each message.
-- Where more than MANY.waiting organisations wait, a turn may be a segment for each MANY.each of them that are more, but no
-- more than weight 1 is served in MANY.stretch moments. The first turn of each list is a part of a turn: see `first_turn`.
local ROUND = 4
local STRETCH = 32
local MUCH = 256
local MANY = {waiting = 1000, each = 64, stretch = 320}
local TURN = 16
local TURNS_MIN = 4
-- A turn of fewer segments ends with its chunk, so that it reads one; the next one of its organisation goes on. Small
-- chunks have whole turns of SHORT messages.
local LONG = 8
local SHORT = 4
-- Most messages that one step moves to the ready stream, because Redis does nothing else meanwhile.
local MOVED_MAX = 256
-- What is moved is counted in windows of so many seconds. When nothing was moved for longer than GAP, milliseconds, the
-- pace is measured anew.
local WINDOW = 10
local GAP = 1000
-- A bundle has at most so many octets, and at most such a part of the mark, so that what is fair is decided late.
local BUNDLE_OCTETS = 32768
local BUNDLES = 4
-- The number of the first message that is made ready is one more. Ids that others made end in smaller ones.
local FIRST = 1099511627776
-- In each run of Redis the numbers move on by so much at least, and by less than twice as much. No line has so many
-- unread messages. Lua counts exactly up to 2^53, so the numbers last for four million runs.
local JUMP = 1073741824

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

-- The messages of the records from `at` on.
local function payloads_in(records, at)
  local found = {}
  while at + 5 <= #records do
    local _, size, from = struct_unpack('>HI4', records, at)
    found[#found + 1] = sub(records, from, from + size - 1)
    at = from + size
  end
  return found
end

-- The messages that the payload of an entry is, and whether it is a bundle.
local function payloads_of(payload)
  if sub(payload, 1, 2) ~= BUNDLE_HEAD or #payload < 13 then return {payload}, false end
  return payloads_in(payload, 13), true
end

-- Where the record behind `count` records ends that begin at `at`, and their segments. It stops behind the record
-- with which they have `segments_max`. Returns the end, their number and their segments.
local function walk(records, at, count, segments_max)
  local sum, octets, byte = 0, #records, byte
  for walked = 1, count do
    -- Most are of one octet of segments and two of the size. Octets cost less than `struct_unpack`.
    local a, b, c, d, e, f = byte(records, at, at + 5)
    at = at + 6 + e * 256 + f
    sum = sum + b
    if a + c + d > 0 then at, sum = at + (c * 256 + d) * 65536, sum + a * 256 end
    if sum >= segments_max or at > octets then return at, walked, sum end
  end
  return at, count, sum
end

-- The field that says of a bundle which of its messages are settled. Its number is in the bundle, and at the end
-- of the id of its entry.
local function note_name(number)
  return 'part:' .. number
end

local function note_of(id)
  return note_name(match(id, '-(%d+)$'))
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

-- By how much the numbers move on in a run of Redis: by its id, so that two runs that begin with the same data give
-- different numbers.
local function jump_of(run)
  return JUMP + (tonumber(sub(run, 1, 8), 16) or 0) % JUMP
end

-- Set how many messages a bundle may have now.
local function size_bundles(line)
  line.bundle = max(1, min(line.bundle_max, floor(line.mark / BUNDLES)))
end

-- The line whose keys begin at `keys[first]`: sms, wait, turns, ahead. `bundle_max`: how many messages the
-- caller lets be written in one entry. `gone`: chunks that have become empty.
local function line_of(keys, first, bundle_max)
  local known = call(
    'HMGET', keys[first + 1], 'messages', 'time', 'mark', 'paused', 'limited', 'extra', 'bundled', 'number', 'moved',
    'put_off', 'moment', 'run')
  local line = {
    sms = keys[first], wait = keys[first + 1], turns = keys[first + 2], ahead = keys[first + 3],
    messages = tonumber(known[1] or 0), time = tonumber(known[2] or 0), said = tonumber(known[3] or MARK),
    paused = tonumber(known[4] or 0), limited = tonumber(known[5] or 0), extra = tonumber(known[6] or 0),
    busy = known[2] ~= false, lists = {}, order = {}, parked = {},
    bundled = tonumber(known[7] or 0), number = tonumber(known[8] or FIRST),
    bundle_max = tonumber(bundle_max or 1),
    records = {''}, open = 0, octets = 0, gone = {}, moved = 0, back = 0, window = known[9],
    put_off = tonumber(known[10] or 0), moment = known[11] and tonumber(known[11]), run = known[12],
    aside = {}, aside_by = {},
  }
  -- What of this the hash is known to have: nothing in the first step of a busy period.
  line.known = known[2] and {messages = line.messages, time = line.time, extra = line.extra} or {}
  line.mark, line.lies = line.said > 0 and line.said or MARK, line.said == 0
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

-- As `moved_in`, where `segments` are below 0 when more came back than was moved. What comes back was moved in this window or
-- in the one before, so what this window does not have is subtracted from that one.
local function moved_less(began, now, before, segments, begins)
  began, now, before = moved_in(began, now, before, segments, begins)
  if now < 0 then return began, 0, before + now end
  return began, now, before
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

-- A *stretch* is a time in which turns move messages without a break. Of the stretch of a line, behind the three values
-- of its window, milliseconds: when it began, when messages were moved last, and the segments that were moved after its
-- first step. That one fills the stream, so it says nothing of the pace. `segments` are moved `now`. Where few are moved,
-- steps are far apart, and a break is longer. An older version beside this one leaves out these values; then there are none
-- until nothing was moved lately.
local function stretched(window, segments, now)
  local since, last, count = window[4], window[5], window[6]
  if not since and moved_lately(window, now / 1000) > 0 then return end
  local apart = since and now - last
  if not since or apart < 0 or apart >= 1000 * WINDOW then return now, now, 0 end
  if apart > GAP then
    local lately = moved_lately(window, now / 1000)
    if lately <= 2 * segments or apart > GAP + 1000 * WINDOW * segments / lately then return now, now, 0 end
  end
  return since, now, count + segments
end

-- What is known of the pace at which turns move messages of a line: the segments that were moved lately, how long the
-- stretch has lasted, milliseconds, below 0 where that is not known, the segments that were moved in it, and the weight of
-- those that wait, as text. `window` and `extra` are what the hash has of the line.
local function pace_of(window, extra, turns, at_ms)
  local of = window and cmsgpack.unpack(window) or {0, 0, 0}
  local weight = tostring(call('ZCARD', turns) + (extra or 0))
  return {moved_lately(of, at_ms / 1000), of[4] and max(0, at_ms - of[4]) or -1, of[6] or 0, weight}
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

-- How many messages of the ready stream no worker has been given, with those that are about to be written.
-- The id of the last entry that a worker was given shows it, because it ends in the number of its last message.
-- Where the numbers have moved on since then, it is known by how much, but only of the last time.
-- Where an older version wrote that entry, or the numbers have moved on twice, bundles in hand count as if they were
-- not. Where messages were ended unread, or an older version wrote unread entries, it is at least the entries, and at
-- most all messages but one for each entry in hand.
local function count_unread(line)
  local entries, group = call('XLEN', line.sms), group_of(line.sms)
  local unread = entries - (group and group['pending'] or 0)
  if unread <= 0 then return line.open end
  local most = unread + line.bundled
  local number = group and tonumber(match(group['last-delivered-id'], '-(%d+)$')) or 0
  local behind = line.number - number
  if behind >= JUMP and line.run then behind = behind - jump_of(line.run) end
  if number >= FIRST then most = min(most, behind) end
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

-- Set the mark of the ready stream and the moment, as a worker says. `taken`: see `refill_line`.
local function aim(line, mark, moment, taken)
  mark, moment = tonumber(mark), tonumber(moment)
  if line.said ~= mark then
    line.said = mark
    call('HSET', line.wait, 'mark', mark)
  end
  local holds = taken and tonumber(taken) or mark > 0 and mark or MARK
  line.lies = mark == 0 and not taken
  if line.mark ~= holds then
    if line.room then line.room = line.room + holds - line.mark end
    line.mark = holds
    size_bundles(line)
  end
  if (line.moment or mark) ~= moment then
    line.moment = moment
    call('HSET', line.wait, 'moment', moment)
  end
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
