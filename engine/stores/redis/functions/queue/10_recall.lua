-- Of a message that is put off: the list it goes to, its segments, and the text of the way it was recalled from, '' for
-- none. `to` is '@' and the text of the way, for the end of the list. Or it is '<' or '^', the text of the way, an octet 0
-- and the text of the way it was recalled from, for the front. With '^' what was recalled of the same list and lies unread
-- in the ready stream goes back as well: see `ways.give_back`.
function ways.of_payload(line, to, payload)
  local organisation, segments = read_payload(payload)
  local text, recalled = match(to, '^.(%Z*)%z?(.*)$')
  return ways.list(line, ways.named(line, text), organisation or '0'), segments or 0, recalled
end

-- Subtract segments that come back from those that the list of a way counts as recalled. Returns how many are more than
-- it counts.
function ways.take_off(line, way, organisation, segments)
  local list = ways.list(line, way, organisation)
  local _, now, before = ways.windows_of(list, ways.begins(line))
  local part = max(0, min(segments, now + before))
  if part > 0 then list.moved, list.changed = list.moved - part, true end
  return segments - part
end

-- Count segments that come back: they have not left the backlog. They are subtracted where their recall was counted, in the
-- way they were recalled from, also one of an earlier plan. When its list has ended since, another way was given its
-- counts (`ways.hand_on`), so they are subtracted there. What is left then counts as put off: it was not recalled, or its
-- counts were given to the list behind the stream, where they stand among what turns moved.
function ways.count_back(line, list, segments, recalled)
  for _, way in ipairs(recalled ~= '' and line.ways or {}) do
    if way.text == recalled then segments = ways.take_off(line, way, list.own, segments) end
  end
  for i = recalled ~= '' and #line.ways or 0, 1, -1 do
    if segments > 0 then segments = ways.take_off(line, line.ways[i], list.own, segments) end
  end
  list.came = list.came + segments
end

-- Segments came back to the list behind the ready stream, more than it counts as moved. Where that list has ended since they
-- were moved, the list of a way was given its counts (`ways.ended`), below what was put off, so they are added there.
function ways.take_from_ended(line, organisation, segments)
  for i = #ways.of(line), 1, -1 do
    local list = ways.list(line, line.ways[i], organisation)
    if list.kept then
      local _, _, _, off, off_before = ways.windows_of(list, ways.begins(line))
      local part = min(segments, -off - off_before)
      if part > 0 then list.came, list.changed = list.came + part, true end
      return
    end
  end
end

-- Put messages off. `came` has two values of each: where it goes (see `ways.of_payload`), and its payload. One that comes
-- back goes to the front, in the order of ids: its worker had no room for it, or tried it. `finish` has to follow.
-- `moved`: see `note_moved`.
function ways.put_off(line, came, moved)
  local back, order = {}, {}
  for i = 1, #came, 2 do
    local list, segments, recalled = ways.of_payload(line, came[i], came[i + 1])
    if byte(came[i]) ~= 64 then
      ways.count_back(line, list, segments, recalled)
      if not back[list] then
        back[list] = {}
        order[#order + 1] = list
      end
      table.insert(back[list], came[i + 1])
    end
  end
  -- First, because a list of which nothing is written yet has no chunk.
  for _, list in ipairs(order) do
    ways.begin(list)
    put_back(line, list, back[list], moved)
  end
  local last = {}
  for i = 1, #came, 2 do
    if byte(came[i]) == 64 then
      last[#last + 1] = came[i + 1]
      local list, segments = ways.of_payload(line, came[i], came[i + 1])
      ways.begin(list)
      list.came = list.came + segments
      list.new = list.new or {}
      list.new[#list.new + 1] = record_of(segments, came[i + 1])
      count_waiting(line, list, 1, segments)
    end
  end
  note_moved(moved, last)
end

-- Put what a worker gives back to the front of lists: `back` behind the ready stream, `put_off` as for `ways.put_off`.
-- What lies in the ready stream of the same list came from behind it, and would be read before it. So that goes back as
-- well, in the same step, also where `wanted` says so (see `take_unread`), and `finish` refills from the front.
-- `finish` has to follow. `moved`: see `note_moved`.
function ways.give_back(line, back, put_off, moved, wanted)
  wanted = wanted or {}
  local function want(way, payload)
    local organisation = read_payload(payload)
    if not organisation then return end
    wanted[way] = wanted[way] or {}
    wanted[way][organisation] = true
  end
  for _, payload in ipairs(back) do want('', payload) end
  for i = 1, #put_off, 2 do
    local text = match(put_off[i], '^%^(%Z*)')
    if text then want(text, put_off[i + 1]) end
  end
  local taken = next(wanted) and take_unread(line, wanted) or {}
  for i = 1, #taken, 2 do
    local way, payload = taken[i], taken[i + 1]
    if way == '' then
      back[#back + 1] = payload
    else
      put(put_off, '^' .. way .. '\0' .. way, payload)
    end
  end
  put_all_back(line, back, moved)
  if put_off[1] then ways.put_off(line, put_off, moved) end
end

-- Up to `count` turns of a way, the first ones.
function ways.turns(line, way, count)
  local from, to = struct_pack('>H', way.number), struct_pack('>H', way.number + 1)
  return call('ZRANGE', line.ways_key, '[' .. from, '(' .. to, 'BYLEX', 'LIMIT', 0, count)
end

-- Move messages of a way to the ready stream, always of the organisation whose turn is first: up to `count`, and no more
-- once they have `segments_max`. Returns how many, and their segments.
function ways.serve(line, way, count, segments_max)
  local page, moved, sum = ways.turns(line, way, ways.TURNS), 0, 0
  local turns, first, last = {}, 1, math.huge
  for i, member in ipairs(page) do turns[i] = {struct_unpack('>d', member, 3), sub(member, 11)} end
  -- What is behind the page is not known.
  if #page == ways.TURNS then last = turns[#page][1] end
  while turns[first] and turns[first][1] <= last do
    local turn = turns[first]
    local list = ways.list(line, way, turn[2])
    if list.messages == 0 then
      list.over = true
    elseif moved == count or sum >= segments_max then
      break
    else
      way.time = max(way.time, turn[1])
      local some, segments = move_some(line, list, 1, 1)
      list.start, list.moved = turn[1] + segments / list.weight, list.moved + segments
      turn[1], moved, sum = list.start, moved + some, sum + segments
      -- Behind those with the same start.
      local at = #turns
      while at > first and turns[at][1] > turn[1] do at = at - 1 end
      table.insert(turns, at + 1, turn)
    end
    first = first + 1
  end
  return moved, sum
end

-- recall(line, ways, moved; number of the way, its text, count, segments_max, mark, moment, bundle_max, plan)
-- -> {how many messages came into the ready stream, their segments, the ways of the line as the hash has them, the
--     weight that waits behind the stream now}
-- `plan`: the version of the plan that is in force, '0' where the way is one of that plan.
-- The field `w` of an entry says for which way its messages waited. A second call moves more messages. A way that has no
-- message left is removed with its last turn. New messages of an organisation that has nothing left there are not put off
-- any more. So what lies unread of it came later than what was recalled, and is put behind that.
local function recall(keys, args)
  local line = line_of(keys, 1, args[7])
  line.ways_key, line.plan = keys[5], args[8] ~= '0' and args[8]
  aim(line, args[5], args[6])
  local moved, sum, text = 0, 0, args[2]
  for _, way in ipairs(ways.of(line)) do
    if way.number == tonumber(args[1]) and way.text == text then
      line.way = text
      moved, sum = ways.serve(line, way, min(tonumber(args[3]), MOVED_MAX), tonumber(args[4]))
      close_bundle(line)
      line.way = nil
      call_with('HDEL', line.wait, line.gone)
      line.gone = {}
      local emptied = {}
      for _, list in ipairs(line.aside) do
        if list.messages == 0 and list.moved > 0 then emptied[list.own] = true end
      end
      if next(emptied) then ways.give_back(line, {}, {}, keys[6], {[''] = emptied}) end
      way.empty = way.messages == 0
    end
  end
  local weight = finish(line)
  for _, way in ipairs(line.ways) do
    if way.empty and #ways.turns(line, way, 1) == 0 then
      way.over = true
      ways.hand_on_way(line, way)
      ways.write(line)
    end
  end
  return {moved, sum, call('HGET', line.wait, 'ways') or '', weight}
end
