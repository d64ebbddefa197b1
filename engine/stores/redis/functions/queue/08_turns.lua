-- The page: the organisations whose turns are first, in the order of their turns, as far as `refill` has looked. Of each
-- place it has the name, what the hash keeps of the list, the list's first chunk, and the start of the turn. A place
-- without a chunk has its list in `line.lists`, or gets one there when its turn comes. `whole`: nobody was left out.
local function turns_of(line)
  line.fields, line.turned, line.left, line.passed, line.ended = {}, {}, {}, {}, {}
  return {names = {}, kept = {}, chunks = {}, starts = {}, size = 0, fetched = 0, whole = true}
end

-- Put organisations on the page, if this step has the list of none of them; none may have limits. Then the page has what
-- Redis answers, as it is. Returns whether it was done.
local function fetch_new(line, page, flat)
  local lists, names, starts, wanted, n, text, start = line.lists, {}, {}, {}, 0, nil, nil
  for i = 1, #flat, 2 do
    local name = flat[i]
    if lists[name] then return false end
    -- Many have the same start.
    if flat[i + 1] ~= text then text, start = flat[i + 1], tonumber(flat[i + 1]) end
    n = n + 1
    names[n], starts[n] = name, start
  end
  local kepts = values_of(line.wait, names)
  for i = 1, n do
    local _, number = unpack_limit(kepts[i], 1, 1)
    wanted[i] = names[i] .. (SUFFIXES[number] or suffix_of(number))
  end
  local chunks, size = values_of(line.wait, wanted), page.size
  if size == 0 then
    page.names, page.starts, page.kept, page.chunks, page.size = names, starts, kepts, chunks, n
    return true
  end
  for i = 1, n do
    size = size + 1
    page.names[size], page.starts[size], page.kept[size], page.chunks[size] = names[i], starts[i], kepts[i], chunks[i]
  end
  page.size = size
  return true
end

-- Put `count` more organisations on the page. A list that this step has is not read again.
local function fetch(line, page, count)
  local flat = call('ZRANGE', line.turns, page.fetched, page.fetched + count - 1, 'WITHSCORES')
  if line.limited == 0 and fetch_new(line, page, flat) then
    page.fetched = #flat == 2 * count and page.fetched + count or nil
    return
  end
  local lists, names, starts, kepts, chunks = line.lists, page.names, page.starts, page.kept, page.chunks
  local n, unknown, text, start = page.size, {}, nil, nil
  for i = 1, #flat, 2 do
    local name = flat[i]
    local list = lists[name]
    -- Many have the same start.
    if flat[i + 1] ~= text then text, start = flat[i + 1], tonumber(flat[i + 1]) end
    -- An organisation whose list this step has emptied keeps its turn until the step ends.
    if not list or list.messages > 0 then
      n = n + 1
      names[n], starts[n], chunks[n] = name, start, false
      if not list then unknown[#unknown + 1] = name end
    else
      page.whole = false
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
      if limits[next] then
        list = list_of(line, name, kept, limits[next])
      else
        number = select(2, unpack_limit(kept, 1, 1))
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

-- The list at a place of the page. It is made for the first turn that `take_turns` leaves, and then stays in `line.lists`.
local function listed(line, page, i)
  local name = page.names[i]
  local list = line.lists[name]
  if not list then
    list = list_of(line, name, page.kept[i], false)
    list.chunk, list.start, page.chunks[i] = page.chunks[i], page.starts[i], false
  end
  return list
end

-- Put a place of the page that has had a turn into `again`, the places that had one, in the order of their next starts. It
-- goes behind those with the same start.
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

-- Put `count` messages, from `from` to `to` in `chunk`, into the bundle that was begun, and into those after it. Returns as
-- `next_bundle`.
local function put_piece(line, records, open, octets, chunk, from, to, count)
  while open + count > line.bundle do
    local room = line.bundle - open
    local cut = room > 0 and walk(chunk, from, room, math.huge) or from
    if room > 0 and (open == 0 or octets + cut - from <= BUNDLE_OCTETS) then
      records[#records + 1] = sub(chunk, from, cut - 1)
      open, octets, from, count = line.bundle, octets + cut - from, cut, count - room
    end
    records, open, octets = next_bundle(line, open, octets)
  end
  local size = to - from + 1
  if octets + size > BUNDLE_OCTETS then records, open, octets = next_bundle(line, open, octets) end
  records[#records + 1] = size == #chunk and chunk or sub(chunk, from, to)
  return records, open + count, octets + size
end

-- Take the turns from the place `i` of the page on, of organisations that have no limits and no list in `line.lists`. It
-- does what `move_some` does, and notes at once what is to be written: with ten thousand lists each turn is one message of
-- another list, so each is to cost little. It stops at a turn that needs three chunks, and where a place of `again` is
-- first. Returns the place behind the last turn, and how many messages are left to be moved.
local function take_turns(line, page, i, left, slice, again, next)
  local names, kepts, chunks, starts, size_all = page.names, page.kept, page.chunks, page.starts, page.size
  local fields, turned, gone, begins = line.fields, line.turned, line.gone, line.begins
  local records, open, octets, time, bundle_most = line.records, line.open, line.octets, line.time, line.bundle
  local left_names, four, pack = line.left, FOUR, struct_pack
  local written, ended, started, waits = #fields, #gone, #turned, #again
  local moved_all, sum_all, soonest = 0, 0, again[next] and starts[again[next]] or math.huge
  -- A bundle that is large enough for many turns is closed as soon as a whole turn does not fit any more.
  local open_most = bundle_most >= 8 * slice and bundle_most - slice or bundle_most - 1
  while i <= size_all and left > 0 do
    local start, chunk = starts[i], chunks[i]
    if not chunk or start > soonest then break end
    if open > open_most then records, open, octets = next_bundle(line, open, octets) end
    local _, first, last, taken, tail, messages, segments, began, now, before = unpack_limit(kepts[i], 9, 1)
    local octets_all = #chunk
    local own = (began or 0) > 0 and slice or first_turn(names[i], slice)
    local at, moved, sum = octets_all + 1, messages, segments
    local behind, at_behind, some = nil, 1, nil
    -- Most lists are short where very many wait: one turn takes all.
    if first < last or messages > left or segments > own then
      at, moved, sum = walk(chunk, taken + 1, left, own)
      -- A turn that is not short goes on in the next chunk. Where that is not enough, `move_some` takes it.
      if sum < own and moved < messages and moved < left and not line.short then
        behind = first < last and call('HGET', line.wait, names[i] .. suffix_of(first + 1))
        if not behind then break end
        local more, segments_more
        at_behind, more, segments_more = walk(behind, 1, left - moved, own - sum)
        moved, sum, some = moved + more, sum + segments_more, moved
        if sum < own and moved < messages and moved < left then break end
      end
    end
    local name, from = names[i], taken + 1
    if behind then
      -- What the turn takes of the first chunk; then it has the next one.
      records, open, octets = put_piece(line, records, open, octets, chunk, from, octets_all, some)
      ended = ended + 1
      gone[ended] = name .. suffix_of(first)
      first, chunk, octets_all, from, at, some = first + 1, behind, #behind, 1, at_behind, moved - some
      chunks[i] = behind
    end
    records, open, octets = put_piece(line, records, open, octets, chunk, from, at - 1, some or moved)
    if start > time then time = start end
    start, taken = start + sum, at - 1
    if taken == octets_all then
      ended = ended + 1
      gone[ended] = name .. (SUFFIXES[first] or suffix_of(first))
      first, taken, chunks[i] = first + 1, 0, false
    end
    if messages == moved then
      ended = ended + 1
      gone[ended], left_names[#left_names + 1] = name, name
      if start > time then put(line.passed, start, name) end
      if line.put_off > 0 then line.ended[#line.ended + 1] = {name, moved_in(began, now, before, sum, begins)} end
    else
      if began == begins then now = now + sum else began, now, before = moved_in(began, now, before, sum, begins) end
      local kept = pack(
        KEPT, 153, four + first, four + last, four + taken, four + tail, four + messages - moved, four + segments - sum,
        four + began, four + now, four + before)
      kepts[i], starts[i] = kept, start
      if start < soonest then soonest = start end
      fields[written + 1], fields[written + 2], written = name, kept, written + 2
      turned[started + 1], turned[started + 2], started = start, name, started + 2
      if waits < next or starts[again[waits]] <= start then
        again[waits + 1] = i
      else
        put_again(again, next, starts, i)
      end
      waits = waits + 1
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
  if line.messages == 0 or line.lies then return end
  count_in_hand(line)
  if room_of(line) <= 0 then return end
  local left, slice = min(line.room, MOVED_MAX), slice_of(line)
  line.short = slice < LONG
  ways.begins(line)
  -- How many messages a turn has in the mean: at first as many as lists have, then what was moved.
  local page, first, all, each = turns_of(line), 1, left, min(math.ceil(slice), line.messages / waiting_of(line))
  -- The places of those that had a turn in this step, by the starts of their next ones.
  local again, next, starts = {}, 1, page.starts
  while left > 0 do
    while first > page.size and page.fetched do
      if left < all then each = (all - left) / page.size end
      fetch(line, page, min(left, math.ceil(left / each)))
      starts = page.starts
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
      local served = list.moved > 0 or window_of(list, line.begins) > 0
      local moved, segments = move_some(line, list, left, served and slice or first_turn(list.organisation, slice))
      start, left = start + segments / list.weight, left - moved
      starts[i], list.start, list.moved, list.turned = start, start, list.moved + segments, true
      if list.messages > 0 then put_again(again, next, starts, i) end
    end
  end
  -- How many of the first organisations had a turn; false where one between them was left out.
  line.turns_taken = page.whole and first - 1
end

-- Write the lists of paused organisations that this step has changed.
local function keep_parked(line)
  append_new(line, line.parked)
  for _, list in ipairs(line.parked) do
    if list.messages > 0 and list.changed then
      call('HSET', line.wait, list.organisation, kept_of(list, ways.begins(line)))
    elseif list.kept and list.messages == 0 then
      call('HDEL', line.wait, list.organisation)
    end
  end
  if line.came then count_in(line.wait, 'parked', line.came) end
end

-- Count what was moved by turns, of all organisations, less what came back, and what weight waits. What is to be written of it
-- goes to `fields`.
local function count_served(line, fields)
  local all = line.moved
  for _, list in ipairs(line.order) do
    all = all + list.moved
    local has = list.messages > 0
    if list.weight ~= 1 and has ~= (list.kept ~= false) then
      line.extra = line.extra + (has and 1 or -1) * (list.weight - 1)
    end
  end
  if all == 0 and line.back == 0 then return end
  local window = line.window and cmsgpack.unpack(line.window) or {0, 0, 0}
  local since, last, count = window[4], window[5], window[6]
  if all > 0 then since, last, count = stretched(window, all, line.now) end
  local began, now, before = moved_less(window[1], window[2], window[3], all - line.back, ways.begins(line))
  if count then count = max(0, count - line.back) end
  put(fields, 'moved', cmsgpack.pack({began, now, max(0, before), since, last, count}))
end

-- Lists that end in this step, and a line whose busy period ends, forget what their turns moved. While anything is put off
-- these counts are still needed, so the ways are given them (`ways.ended`).
local function hand_on_moved(line, is_over)
  local begins, all, ended = ways.begins(line), line.moved, line.ended or {}
  for _, list in ipairs(line.order) do
    all = all + list.moved
    if list.messages == 0 and (list.kept or list.moved > 0) then
      ended[#ended + 1] = {list.organisation, window_of(list, begins)}
    end
  end
  all = all - line.back
  is_over = is_over and (all ~= 0 or line.window)
  if not ended[1] and not is_over then return end
  local window = line.window and cmsgpack.unpack(line.window) or {0, 0, 0}
  ways.ended(line, ended, is_over and {moved_in(window[1], window[2], window[3], all, begins)})
end

-- Write what has become of the line, and refill its ready stream. The last step of every function that lets
-- a message in or makes room. Returns the weight of all that wait for their turn, in tenths; 0: nobody does.
local function finish(line)
  keep_parked(line)
  ways.keep(line)
  if not line.busy then
    keep_ready(line)
    -- Said by a worker that did not know yet that nobody waits any more.
    if line.said == 0 then call('HDEL', line.wait, 'mark') end
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
  local is_over = line.messages == 0 and has_room(line)
  if line.put_off > 0 then hand_on_moved(line, is_over) end
  if is_over then
    call('DEL', line.turns, line.ahead)
    call('HDEL', line.wait, 'messages', 'time', 'extra', 'moved')
    if line.said == 0 then call('HDEL', line.wait, 'mark') end
    for _, list in ipairs(line.order) do
      if list.waited then line.gone[#line.gone + 1] = list.organisation end
    end
    call_with('HDEL', line.wait, line.gone)
    return 0
  end
  local before = line.known
  local fields, left = line.fields or {}, line.left or {}
  -- Where most of those in front have nothing left, all are taken out of the turns at once, and who still waits is written
  -- again: that costs less than finding each of them.
  local at_once = line.turns_taken and 2 * #left > line.turns_taken
  if at_once then left = {} end
  count_served(line, fields)
  local turns, ahead = line.turned or {}, line.passed or {}
  if line.messages ~= before.messages then put(fields, 'messages', line.messages) end
  if line.time ~= before.time then put(fields, 'time', line.time) end
  if line.extra ~= before.extra then put(fields, 'extra', line.extra) end
  for _, list in ipairs(line.order) do
    if list.messages > 0 then
      if list.changed then put(fields, list.organisation, kept_of(list, line.begins)) end
      if list.turned then put(turns, list.start, list.organisation) end
    else
      if list.waited then line.gone[#line.gone + 1], left[#left + 1] = list.organisation, list.organisation end
      if list.start and list.start > line.time then put(ahead, list.start, list.organisation) end
    end
  end
  call_with('HSET', line.wait, fields)
  call_with('HDEL', line.wait, line.gone)
  local removed = at_once and call('ZREMRANGEBYRANK', line.turns, 0, line.turns_taken - 1) or 0
  removed = removed - call_with('ZADD', line.turns, turns) + call_with('ZREM', line.turns, left)
  call_with('ZADD', line.ahead, ahead)
  if line.time ~= before.time then call('ZREMRANGEBYSCORE', line.ahead, '-inf', line.time) end
  if line.messages == 0 then return 0 end
  return max(1, floor(10 * (waiting_of(line) - removed + line.extra) + 0.5))
end
