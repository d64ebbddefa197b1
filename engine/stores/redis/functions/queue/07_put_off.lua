-- Messages that are put off, because the providers that may carry them take no more now. They wait in lists of their
-- own, beside those behind the ready stream: one for each organisation and *way*. A way is what a message waits for:
-- a text that only workers read, the same for all messages that the same providers may carry. The lists of a way share
-- what its providers take by the rule of the turns: start-time fair queueing, a message a turn. A worker whose provider
-- has room moves messages from the front to the ready stream (`recall`), so nothing here has a time at which it comes
-- back. In the hash of the line:
--   put_off      how many messages wait so
--   ways         MessagePack: of each way its number, its text, how many messages wait, the weight of the organisations
--                of which some do and that are not paused, its virtual time, and in windows (see `moved_in`) when the
--                present one began, the segments that were recalled in it and in the one before and not put back, and
--                those that were put off; then the next way
--   <organisation>@<number>      a list as others, MessagePack, and behind it the start time of its next message, and
--                                the segments put off in the window and in the one before
--   <organisation>@<number>:<n>  a chunk
-- `turns` of a way are members of the sorted set `ways`, all with the score 0: the number of the way, the start time and
-- the organisation, so that they lie in the order of their starts. One that is paused has none. An organisation of
-- which no message is left keeps its turn until that comes, so that coming in small portions gains nothing.
local ways = {}
-- Most turns that one step looks at.
ways.TURNS = 256

-- The organisation and the segments of a payload; nil when it cannot be read.
local function read_payload(payload)
  local readable, message = pcall(cmsgpack.unpack, payload)
  if readable and type(message) == 'table' and tonumber(message[7]) then
    return format('%.0f', message[2]), message[7]
  end
end

-- The ways of a line, from what the hash has of them.
function ways.read(packed)
  local found, of = {}, packed and cmsgpack.unpack(packed) or {}
  for i = 1, #of, 10 do
    local number, text, messages, weight, time, began, now, before, off, off_before = unpack(of, i, i + 9)
    found[#found + 1] = {
      number = number, text = text, messages = messages, weight = weight, time = time, began = began, now = now,
      before = before, off = off, off_before = off_before,
    }
  end
  return found
end

function ways.pack(all)
  local flat = {}
  for _, way in ipairs(all) do
    for _, value in ipairs({
      way.number, way.text, way.messages, way.weight, way.time, way.began, way.now, way.before, way.off, way.off_before,
    }) do flat[#flat + 1] = value end
  end
  return cmsgpack.pack(flat)
end

function ways.of(line)
  line.ways = line.ways or ways.read(call('HGET', line.wait, 'ways'))
  return line.ways
end

-- The way with this number; '': of none.
function ways.numbered(line, number)
  for _, way in ipairs(number ~= '' and ways.of(line) or {}) do
    if way.number == tonumber(number) then return way end
  end
end

-- The least number of a way that is above `number`; nil: there is none.
function ways.following(line, number)
  local found
  for _, way in ipairs(line.put_off > 0 and ways.of(line) or {}) do
    if way.number > number and (not found or way.number < found) then found = way.number end
  end
  return found
end

-- The way with this text, made when there is none yet.
function ways.named(line, text)
  local numbers = {}
  for _, way in ipairs(ways.of(line)) do
    if way.text == text then return way end
    numbers[way.number] = true
  end
  local way = {text = text, messages = 0, weight = 0, time = 0, began = 0, now = 0, before = 0, off = 0, off_before = 0}
  way.number = 1
  while numbers[way.number] do way.number = way.number + 1 end
  line.ways[#line.ways + 1] = way
  return way
end

-- The member of the sorted set that is the turn of an organisation. Doubles that are not below 0 lie in the order of
-- their octets.
function ways.turn(way, start, organisation)
  return struct_pack('>Hd', way.number, start) .. organisation
end

function ways.name(organisation, way)
  return organisation .. '@' .. format('%.0f', way.number)
end

-- The list of an organisation in a way. `start`: of its turn, false where it has never had one; `turn`: the start of the
-- turn that stands in the sorted set.
function ways.list(line, way, organisation)
  local name = ways.name(organisation, way)
  local list = line.aside_by[name]
  if not list then
    local found = call('HMGET', line.wait, name, limits_name(organisation))
    local kept = found[1] and cmsgpack.unpack(found[1]) or {1, 0, 0, 0, 0, 0, 0, 0, 0, false, 0, 0}
    list = {
      organisation = name, own = organisation, way = way, first = kept[1], last = kept[2], taken = kept[3],
      tail = kept[4], messages = kept[5], segments = kept[6], window = kept, kept = found[1], start = kept[10],
      moved = 0, came = 0, chunk = false, new = false, changed = false, over = false, weight = 1, paused = false,
    }
    if found[2] then list.weight, list.paused = read_limits(found[2]) end
    list.had = list.messages > 0 and not list.paused
    list.turn = not list.paused and list.start
    line.aside_by[name], line.aside[#line.aside + 1] = list, list
  end
  return list
end

-- Move windows on by what was recalled and put off: began, now, before, off, off before. What comes back was recalled
-- in this window, or in the one before.
function ways.windows(began, now, before, off, off_before, moved, came, begins)
  if moved == 0 and came == 0 then return began, now, before, off, off_before end
  local _, off_now, off_then = moved_in(began, off, off_before, came, begins)
  began, now, before = moved_in(began, now, before, moved, begins)
  if now < 0 then now, before = 0, max(0, before + now) end
  return began, now, before, off_now, off_then
end

-- Write what is kept of the ways, without those that are over.
function ways.write(line)
  local left = {}
  for _, way in ipairs(line.ways) do
    if way.messages == 0 then way.weight = 0 end
    if not way.over then left[#left + 1] = way end
  end
  if left[1] then
    call('HSET', line.wait, 'ways', ways.pack(left), 'put_off', line.put_off)
  else
    call('HDEL', line.wait, 'ways', 'put_off')
  end
end

-- Write the lists and turns that this step has changed.
function ways.keep(line)
  if not line.ways then return end
  append_new(line, line.aside)
  line.now = line.now or now_ms()
  local at_s = floor(line.now / 1000)
  local begins = at_s - at_s % WINDOW
  local fields, gone, turns, ended = {}, {}, {}, {}
  for _, list in ipairs(line.aside) do
    local way, has = list.way, list.messages > 0 and not list.paused
    if has ~= list.had then way.weight = way.weight + (has and 1 or -1) * list.weight end
    if list.over or list.messages == 0 and list.paused then
      if list.kept then gone[#gone + 1] = list.organisation end
      if list.turn then ended[#ended + 1] = ways.turn(way, list.turn, list.own) end
    elseif list.changed then
      local of = list.window
      local began, now, before, off, off_before = ways.windows(
        of[7], of[8], of[9], of[11], of[12], list.moved, list.came, begins)
      put(fields, list.organisation, cmsgpack.pack({
        list.first, list.last, list.taken, list.tail, list.messages, list.segments, began, now, before, list.start, off,
        off_before,
      }))
      if not list.paused and list.turn ~= list.start then
        if list.turn then ended[#ended + 1] = ways.turn(way, list.turn, list.own) end
        put(turns, 0, ways.turn(way, list.start, list.own))
      end
    end
    way.began, way.now, way.before, way.off, way.off_before = ways.windows(
      way.began, way.now, way.before, way.off, way.off_before, list.moved, list.came, begins)
  end
  -- Without a turn of its own nothing here makes one: `ways` is named wherever something is put off or recalled.
  if ended[1] then call_with('ZREM', line.ways_key, ended) end
  if turns[1] then call_with('ZADD', line.ways_key, turns) end
  call_with('HSET', line.wait, fields)
  call_with('HDEL', line.wait, gone)
  ways.write(line)
end

-- The turn of an organisation begins, when it has nothing waiting: now, or when what it was served is over.
function ways.begin(list)
  if list.messages == 0 then list.start = max(list.way.time, list.start or 0) end
end

-- How many messages and segments of an organisation are put off, and its segments that were recalled lately and that
-- were put off lately. `all`: the ways of the line.
function ways.sums(wait, all, organisation, at_s)
  local names, messages, segments, moved, off = {}, 0, 0, 0, 0
  for i, way in ipairs(all) do names[i] = ways.name(organisation, way) end
  for _, kept in ipairs(values_of(wait, names)) do
    if kept then
      local of = cmsgpack.unpack(kept)
      messages, segments = messages + of[5], segments + of[6]
      moved = moved + moved_lately({of[7], of[8], of[9]}, at_s)
      off = off + moved_lately({of[7], of[11], of[12]}, at_s)
    end
  end
  return messages, segments, moved, off
end

-- What left a backlog lately: what its turns moved and was not put off, and what was recalled. What was put off without
-- having waited before is not among what turns moved.
function ways.left(moved, recalled, off)
  return max(0, recalled, moved + recalled - off)
end
