-- Messages that are put off, because the providers that may carry them take no more now. They wait in lists of their
-- own, beside those behind the ready stream: one for each organisation and *way*. A way is what a message waits for:
-- a text that only workers read, the same for all messages that the same providers may carry. The lists of a way share
-- what its providers take by the rule of the turns: start-time fair queueing, a message a turn. A worker whose provider
-- has room moves messages from the front to the ready stream (`recall`). So no time is set at which a message comes
-- back. In the hash of the line:
--   put_off      how many messages wait so
--   plan         the version of the routing plan that workers recalled by when they last recalled what waits by another one
--   ways         MessagePack: of each way its number, its text, how many messages wait, the weight of the organisations
--                of which some do and that are not paused, its virtual time, and in windows (see `moved_in`) when the
--                present one began, the segments that were recalled in it and in the one before and not put back, and
--                those that were put off less those of `ways.ended`; then the next way
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
  local _, off_now, off_then = moved_in(began, off, off_before, came, begins)
  began, now, before = moved_in(began, now, before, moved, begins)
  if now < 0 then now, before = 0, before + now end
  return began, now, before, off_now, off_then
end

-- When the present window began.
function ways.begins(line)
  line.now = line.now or now_ms()
  local at_s = floor(line.now / 1000)
  return at_s - at_s % WINDOW
end

-- The windows of a list as they are with what this step has done.
function ways.windows_of(list, begins)
  local of = list.window
  return ways.windows(of[7], of[8], of[9], of[11], of[12], list.moved, list.came, begins)
end

-- What turns moved, in a window that begins at `begins` and in the one before, with what was recalled less what was put off.
function ways.all_moved(began, now, before, of, begins)
  began, now, before = moved_in(began, now, before, of[2] - of[4], begins)
  before = before + of[3] - of[5]
  if now < 0 then now, before = 0, before + now end
  return began, now, max(0, before)
end

-- What the windows of a list that ends say goes to another list of its organisation, where there is one: so what left its
-- backlog lately is known when all of it has gone to another way. Where there is none, to the list behind the stream.
function ways.hand_on(line, list, begins)
  for i = #line.ways, 1, -1 do
    local heir = line.ways[i] ~= list.way and ways.list(line, line.ways[i], list.own)
    if heir and not heir.over and (heir.kept or heir.messages > 0) then
      local _, now, before, off, off_before = ways.windows_of(list, begins)
      local of = heir.window
      local _, own, own_before, own_off, own_off_before = ways.windows(of[7], of[8], of[9], of[11], of[12], 0, 0, begins)
      of[7], of[8], of[9] = begins, own + now, own_before + before
      of[11], of[12], heir.changed = own_off + off, own_off_before + off_before, true
      return
    end
  end
  local behind = {kept = call('HGET', line.wait, list.own), moved = 0}
  if not behind.kept then return end
  local first, last, taken, tail, messages, segments = read_kept(behind.kept)
  local of, began, now, before = {ways.windows_of(list, begins)}, window_of(behind, begins)
  local kept = pack_kept(first, last, taken, tail, messages, segments, ways.all_moved(began, now, before, of, begins))
  call('HSET', line.wait, list.own, kept)
  -- Where this step writes it again.
  if line.lists[list.own] then line.lists[list.own].kept = kept end
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
    if line.plan then call('HSET', line.wait, 'plan', line.plan) end
  else
    call('HDEL', line.wait, 'ways', 'put_off', 'plan')
  end
end

-- Write the lists and turns that this step has changed.
function ways.keep(line)
  if not line.ways then return end
  append_new(line, line.aside)
  local begins = ways.begins(line)
  local fields, gone, turns, ended = {}, {}, {}, {}
  for _, list in ipairs(line.aside) do
    list.over = list.over or list.messages == 0 and list.paused
    if list.over and list.kept then ways.hand_on(line, list, begins) end
  end
  for _, list in ipairs(line.aside) do
    local way, has = list.way, list.messages > 0 and not list.paused
    if has ~= list.had then way.weight = way.weight + (has and 1 or -1) * list.weight end
    if list.over then
      if list.kept then gone[#gone + 1] = list.organisation end
      if list.turn then ended[#ended + 1] = ways.turn(way, list.turn, list.own) end
    elseif list.changed then
      local began, now, before, off, off_before = ways.windows_of(list, begins)
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

-- As `ways.hand_on`, of a way that ends.
function ways.hand_on_way(line, way)
  local begins, heir = ways.begins(line), nil
  for _, other in ipairs(line.ways) do
    if not other.over then heir = other end
  end
  local of = {ways.windows(way.began, way.now, way.before, way.off, way.off_before, 0, 0, begins)}
  if not heir then
    local moved = call('HGET', line.wait, 'moved')
    local window = moved and cmsgpack.unpack(moved)
    if not window then return end
    window = {ways.all_moved(window[1], window[2], window[3], of, begins)}
    return call('HSET', line.wait, 'moved', cmsgpack.pack(window))
  end
  local _, now, before, off, off_before = unpack(of)
  heir.began, heir.now, heir.before, heir.off, heir.off_before = ways.windows(
    heir.began, heir.now, heir.before, heir.off, heir.off_before, now, off, begins)
  heir.before, heir.off_before = heir.before + before, heir.off_before + off_before
end

-- What turns have moved of lists behind the stream that end goes to what is put off of the same organisation, as what was
-- not put off of it; and of the whole line to a way. `ended`: {organisation, when its window began, what was moved in it
-- and in the one before} of each list; `window`: of the line; false: it has not ended.
function ways.ended(line, ended, window)
  local begins, all, names, fields = ways.begins(line), ways.of(line), {}, {}
  local function shifted(window, at)
    local _, now, before = moved_in(window[at], window[at + 1], window[at + 2], 0, begins)
    return now, before
  end
  for _, of in ipairs(ended) do
    for _, way in ipairs(all) do names[#names + 1] = ways.name(of[1], way) end
  end
  local kept = values_of(line.wait, names)
  for i, of in ipairs(ended) do
    local n = i * #all
    while n > (i - 1) * #all and not kept[n] do n = n - 1 end
    if n > (i - 1) * #all then
      local list, now, before = cmsgpack.unpack(kept[n]), shifted(of, 2)
      list[7], list[8], list[9], list[11], list[12] = ways.windows(
        list[7], list[8], list[9], list[11], list[12], 0, -now, begins)
      list[12] = list[12] - before
      put(fields, names[n], cmsgpack.pack(list))
    end
  end
  call_with('HSET', line.wait, fields)
  local way = all[#all]
  if window and way then
    local now, before = shifted(window, 1)
    way.began, way.now, way.before, way.off, way.off_before = ways.windows(
      way.began, way.now, way.before, way.off, way.off_before, 0, -now, begins)
    way.off_before = way.off_before - before
    ways.write(line)
  end
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

-- What was recalled from ways of plans before and is on its way still, ready or in a worker's hand: segments by organisation.
-- Nobody knows yet whether it is put off again. `all`: the ways of the line.
function ways.between(line, all)
  local version, found = all[1] and tonumber(call('HGET', line.wait, 'plan') or 0), {}
  local function version_of(text) return tonumber(match(text, '^%d+') or 0) end
  for _, way in ipairs(all) do
    if version_of(way.text) < version then
      for _, entry in ipairs(call('XRANGE', line.sms, '-', '+')) do
        local of = entry[2]
        if of[7] == 'w' and version_of(of[8]) < version then
          each_open(line.wait, of[2], function(payload)
            local organisation, segments = read_payload(payload)
            if organisation then found[organisation] = (found[organisation] or 0) + segments end
          end)
        end
      end
      break
    end
  end
  return found
end

-- What left a backlog lately: what its turns moved and was not put off, and what was recalled. What was put off without
-- having waited before is not among what turns moved.
function ways.left(moved, recalled, off)
  return max(0, recalled, moved + recalled - off)
end
