-- Messages that are put off: the providers that may carry them take no more now. Such a message waits in a list of its
-- organisation for its *way*, apart from the list behind the ready stream. A way is what the message waits for: a text
-- that only workers read, the same for all messages that the same providers may carry. The lists of a way share what its
-- providers take by start-time fair queueing, one message a turn. A worker whose provider has room moves messages from
-- the front of the lists to the ready stream (`recall`). No time is set at which a message comes back.
-- Fields in the hash of the line:
--   put_off      how many messages are put off
--   plan         the version of the routing plan that was in force when a worker last recalled from a way of another version
--   ways         MessagePack, ten values for each way: its number, its text, how many messages wait, the sum of the weights
--                of the organisations that have messages there and are not paused, its virtual time, when its present
--                window began (see `moved_in`), the segments that were recalled in that window and in the one before and
--                not put back, and the segments that were put off in both, less those that `ways.ended` was given
--   <organisation>@<number>      a list as others, MessagePack; then the start time of its next message, and the segments
--                                that were put off in its present window and in the one before
--   <organisation>@<number>:<n>  a chunk of that list
-- The turns of all ways are members of the sorted set `ways`, each with the score 0. A member is the number of the way,
-- the start time and the organisation, so members lie in the order of their starts. A paused organisation has no turn. An
-- organisation that has no message left keeps its turn until that turn comes, so it gains nothing by small portions.
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

-- The way with this number; nothing for ''.
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

-- The windows {began, now, before, off, off before}, after `moved` more segments were recalled and `came` more were put
-- off. `moved` is below 0 where more was put back than recalled.
function ways.windows(began, now, before, off, off_before, moved, came, begins)
  local _, off_now, off_then = moved_in(began, off, off_before, came, begins)
  began, now, before = moved_less(began, now, before, moved, begins)
  return began, now, before, off_now, off_then
end

-- When the present window began.
function ways.begins(line)
  if not line.begins then
    line.now = line.now or now_ms()
    local at_s = floor(line.now / 1000)
    line.begins = at_s - at_s % WINDOW
  end
  return line.begins
end

-- The windows of a list, with what this step has recalled and put off.
function ways.windows_of(list, begins)
  local of = list.window
  return ways.windows(of[7], of[8], of[9], of[11], of[12], list.moved, list.came, begins)
end

-- The window {began, now, before} of what left a backlog: what turns moved, plus what was recalled, less what was put off.
-- `of`: the windows of the way or of its list, as `ways.windows` returns them.
function ways.all_moved(began, now, before, of, begins)
  began, now, before = moved_less(began, now, before, of[2] - of[4], begins)
  return began, now, max(0, before + of[3] - of[5])
end

-- A list ends: add the counts of its windows to another list of its organisation. So what left the backlog lately is
-- known when all of it has gone to another way. Where there is no other list, they go to the list behind the ready stream.
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
  local behind = {kept = call('HGET', line.wait, list.own), moved = 0, back = 0}
  if not behind.kept then return end
  local first, last, taken, tail, messages, segments = read_kept(behind.kept)
  local of, began, now, before = {ways.windows_of(list, begins)}, window_of(behind, begins)
  local kept = pack_kept(first, last, taken, tail, messages, segments, ways.all_moved(began, now, before, of, begins))
  call('HSET', line.wait, list.own, kept)
  -- This step may write that list once more, from what it has of it.
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
  -- Turns change only in steps that put off or recall, and those name the key of the sorted set.
  if ended[1] then call_with('ZREM', line.ways_key, ended) end
  if turns[1] then call_with('ZADD', line.ways_key, turns) end
  call_with('HSET', line.wait, fields)
  call_with('HDEL', line.wait, gone)
  ways.write(line)
end

-- As `ways.hand_on`, for a way that ends.
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
    window[1], window[2], window[3] = ways.all_moved(window[1], window[2], window[3], of, begins)
    return call('HSET', line.wait, 'moved', cmsgpack.pack(window))
  end
  local _, now, before, off, off_before = unpack(of)
  heir.began, heir.now, heir.before, heir.off, heir.off_before = ways.windows(
    heir.began, heir.now, heir.before, heir.off, heir.off_before, now, off, begins)
  heir.before, heir.off_before = heir.before + before, heir.off_before + off_before
end

-- Lists behind the ready stream end, and what their turns moved would be forgotten with them. It is subtracted from what
-- the organisation has put off, in its list of the last way that has one: `ways.left` then counts the same as before. When
-- the line ends, its own window is subtracted from the last way. `ended`: for each list {organisation, when its window
-- began, what was moved in it and in the one before}; `window`: that of the line; false: it has not ended.
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

-- When the next turn of an organisation begins that has nothing waiting: at the virtual time now, or at the end of what it
-- was served, where that is later.
function ways.begin(list)
  if list.messages == 0 then list.start = max(list.way.time, list.start or 0) end
end

-- Of an organisation: its messages that are put off, their segments, the segments that were recalled lately, and those
-- that were put off lately. `all`: the ways of the line.
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

-- Segments by organisation that were recalled from ways of earlier routing plans and are not settled: they lie in the ready
-- stream, or a worker has them. Nobody knows yet whether they will be put off again. `all`: the ways of the line.
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

-- Segments that left a backlog lately: those that turns moved, less those that were put off, plus those that were recalled.
-- It is never less than those that were recalled: `off` also counts messages that were put off without having waited in a
-- list, which no turn has moved.
function ways.left(moved, recalled, off)
  return max(0, recalled, moved + recalled - off)
end
