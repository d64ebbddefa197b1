-- What the hash has of the limits of organisations, in their order.
local function limits_of(line, organisations)
  local names = {}
  if line.limited == 0 then return names end
  for i, organisation in ipairs(organisations) do names[i] = limits_name(organisation) end
  return values_of(line.wait, names)
end

-- What the hash keeps of a list is a MessagePack array in which each number has four octets, so that it is written in one
-- go. Each number is written together with the octet before it, 206: that is a quarter of the time of writing them apart.
-- Older versions, which write the shortest form, read it too. Either is read from its second octet on, as numbers behind
-- one another, so that no table is made.
local KEPT = '>BI5I5I5I5I5I5I5I5I5'
local FOUR = 206 * 4294967296

-- The first six numbers of a list.
local function read_kept(kept)
  if not kept then return 1, 0, 0, 0, 0, 0 end
  return select(2, unpack_limit(kept, 6, 1))
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
      segments = segments, kept = kept, waited = kept ~= false, changed = false, moved = 0, back = 0, turned = false,
      start = false, chunk = false, new = false, weight = 1, paused = false,
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

-- The window of a list with what its turns moved in this step, less what came back of it, in the window that begins at
-- `begins`.
local function window_of(list, begins)
  local began, now, before = 0, 0, 0
  if list.kept then
    local _, _, _, _, _, _, _, of, segments, segments_before = unpack_limit(list.kept, 9, 1)
    began, now, before = of or 0, segments or 0, segments_before or 0
  end
  if list.moved == 0 and list.back == 0 then return began, now, before end
  began, now, before = moved_less(began, now, before, list.moved - list.back, begins)
  return began, now, max(0, before)
end

-- What the hash keeps of a list. `begins`: as for `window_of`.
local function kept_of(list, begins)
  return pack_kept(
    list.first, list.last, list.taken, list.tail, list.messages, list.segments, window_of(list, begins))
end

-- Change a count of the hash; 0 is no field.
local function count_in(wait, field, by)
  if by ~= 0 and call('HINCRBY', wait, field, by) == 0 then call('HDEL', wait, field) end
end

-- Note that `count` messages came to a list, or left it.
local function count_waiting(line, list, count, segments)
  list.messages, list.segments, list.changed = list.messages + count, list.segments + segments, true
  if list.way then
    list.way.messages, line.put_off = list.way.messages + count, line.put_off + count
  elseif list.paused then
    line.came = (line.came or 0) + count
  else
    line.messages = line.messages + count
  end
end

-- The start time of the next message of an organisation without a turn.
local function next_start(line, organisation)
  return max(line.time, tonumber(call('ZSCORE', line.ahead, organisation) or 0))
end

-- Whether a message of any organisation goes to the ready stream at once. (It does not check who is paused.)
local function is_open(line)
  return line.messages == 0 and has_room(line)
end

-- Whether messages enter the line in the same way whatever organisation they belong to.
local function is_open_to_all(line)
  return line.paused == 0 and is_open(line)
end

-- The list that the next message of an organisation goes to. Without one, it goes to the ready stream at once: because
-- that is open; or because the organisation has no list and its turn is now, although the stream is full. It would be
-- the next one anyway, so it waits only for what is in the stream. Then its turn is the second answer.
local function list_for(line, organisation)
  local list = line.lists[organisation]
  if line.paused > 0 then
    list = list or list_of(line, organisation)
    if list.paused then return list end
  end
  if is_open(line) then return end
  line.busy = true
  list = list or list_of(line, organisation)
  if list.messages > 0 then return list end
  list.start = list.start or next_start(line, organisation)
  if list.start > line.time then return list end
  return nil, list
end

-- Put `count` records behind one another at the end of a list.
local function join(line, list, records, count, segments)
  local new = list.new or {}
  list.new, new[#new + 1] = new, records
  count_waiting(line, list, count, segments)
end

-- Make a message ready that needs no list. `served`: as `list_for` says.
local function pass(line, served, segments, record)
  if served then served.start = served.start + segments / served.weight end
  bundle(line, record, 1)
end

-- Let a message into the line, as a record. `finish` has to follow.
local function enter(line, organisation, segments, record)
  local list, served = list_for(line, organisation)
  if list then return join(line, list, record, 1, segments) end
  pass(line, served, segments, record)
end

-- Let a run of messages of an organisation into the line: `count`, with so many segments, from `at` in `records` on.
-- Once one of them has to wait, all that is left goes to its list in one piece. So no chunk is begun with one message:
-- that would be a turn of its own.
local function enter_run(line, organisation, count, segments, records, at, behind)
  while at < behind do
    local list, served = list_for(line, organisation)
    if list then return join(line, list, sub(records, at, behind - 1), count, segments) end
    local own, size, from = struct_unpack('>HI4', records, at)
    pass(line, served, own, sub(records, at, from + size - 1))
    at, count, segments = from + size, count - 1, segments - own
  end
end

-- How many organisations have a turn, as it was counted when it was first asked for, and those that `finish` has begun.
local function waiting_of(line)
  line.waiting = line.waiting or call('ZCARD', line.turns)
  return line.waiting
end

-- The segments of one turn; a turn has a message at least.
local function slice_of(line)
  local waiting, moment = waiting_of(line), line.moment or line.mark
  local stretch = moment < MUCH and STRETCH or 2 * STRETCH
  local weight = waiting + line.extra
  local many = min((waiting - MANY.waiting) / MANY.each, MANY.stretch * moment / weight)
  local most = max(1, floor(max(stretch * moment / weight, many)))
  return min(line.mark / TURNS_MIN, most, max(ROUND * moment / waiting, TURN))
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
  if n == 1 then
    list_of(line, unknown[1])
  elseif n > 1 then
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
  local i, is_long = 1, slice_of(line) >= LONG
  while of[i] do
    local organisation = of[i]
    local list = line.lists[organisation]
    if list and list.messages > 0 then
      -- All runs of it that follow each other go to its list: as one, as far as they are to be in one chunk.
      local new, count, segments, from = list.new or {}, 0, 0, at
      repeat
        local behind = at + of[i + 3]
        if at > from and not (is_long and behind - from <= CHUNK) then
          new[#new + 1], from = sub(records, from, at - 1), at
        end
        count, segments, at, i = count + of[i + 1], segments + of[i + 2], behind, i + 4
      until of[i] ~= organisation
      new[#new + 1] = from == 1 and at > #records and records or sub(records, from, at - 1)
      list.new = new
      count_waiting(line, list, count, segments)
    else
      local behind = at + of[i + 3]
      enter_run(line, organisation, of[i + 1], of[i + 2], records, at, behind)
      at, i = behind, i + 4
    end
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

-- The segments of the first turn of a list: a part of `slice`, from 1 on, by the number of its organisation. So the turns of
-- those that began to wait together do not stay together, and the virtual time moves evenly, not by a turn at once. Whoever
-- sends little then waits for the virtual time that it used, not for the turns of all others. Nobody is served more for it.
-- Multiples of the golden ratio, without their whole parts, lie evenly between 0 and 1.
local function first_turn(organisation, slice)
  local part = organisation * 0.6180339887498949
  return 1 + floor((part - floor(part)) * slice)
end

-- Whether so many octets more are to be in a small chunk that has `tail`. It is closed behind whole turns of SHORT messages,
-- as if all were of that size, so that its last turn is not a short one.
local function fits(tail, octets)
  if floor(tail / octets + 0.5) % SHORT > 0 then return tail + octets <= CHUNK_SMALL_MOST end
  return tail + SHORT * octets <= CHUNK_SMALL
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
  local long, numbers = slice_of(line) >= LONG, {}
  for i, list in ipairs(lists) do
    if list.last >= list.first and fits(list.tail, #list.new[1]) then
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
      if not chunk or long and list.tail + octets > CHUNK or not long and not fits(list.tail, octets) then
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

-- Take messages out of a chunk of a list, wherever they stand in it, and write what is left. `n`: the number of the
-- chunk, which is the field `name`; `records`: what is there; `is_taken(payload, record)` is asked for each message.
local function take_from_chunk(line, list, n, name, records, is_taken)
  local at, rest, before = n == list.first and list.taken + 1 or 1, {}, list.messages
  while at <= #records do
    local segments, size, from = struct_unpack('>HI4', records, at)
    local behind = from + size
    local record = sub(records, at, behind - 1)
    if is_taken(sub(records, from, behind - 1), record) then
      count_waiting(line, list, -1, -segments)
    else
      rest[#rest + 1] = record
    end
    at = behind
  end
  if list.messages == before then return end
  rest = concat(rest)
  if rest == '' then call('HDEL', line.wait, name) else call('HSET', line.wait, name, rest) end
  if n == list.first then list.taken = 0 end
  -- Nothing is appended to a chunk that is gone.
  if n == list.last then list.tail = rest == '' and CHUNK or #rest end
  if list.messages == 0 and not list.paused and not list.way then
    list.start = tonumber(call('ZSCORE', line.turns, list.organisation))
  end
end

-- The first chunk of a list that has messages. One that `take_from_chunk` has emptied is not there.
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
      if line.short then break end
    end
  until moved == list.messages or moved == count or sum >= segments_max
  count_waiting(line, list, -moved, -sum)
  return moved, sum
end
