-- The records of the messages of a bundle that are not settled, behind room for the head of another bundle.
local function open_records(line, id, payload)
  local note, found, at, place = call('HGET', line.wait, note_of(id)), {''}, 13, 0
  while at + 5 <= #payload do
    local _, size, from = struct_unpack('>HI4', payload, at)
    place = place + 1
    if not note or sub(note, place, place) == '.' then found[#found + 1] = sub(payload, at, from + size - 1) end
    at = from + size
  end
  return found
end

-- Take an entry that no worker has been given out of the stream. `open`: how many messages of a bundle are not settled,
-- false where it is none.
local function take_entry(line, id, open)
  call('XDEL', line.sms, id)
  if open then
    call('HDEL', line.wait, note_of(id))
    line.bundled, line.changed = line.bundled - open + 1, true
  end
end

-- Cancel messages of an entry that no worker has been given. Returns the records of the others, when some of a bundle
-- were canceled and some were not; else whether the entry is still there.
local function cancel_unread(line, id, payload, wanted)
  if not select(2, count_of(payload)) then
    if not wanted.take(payload) then return true end
    take_entry(line, id, false)
    return false
  end
  local records, rest = open_records(line, id, payload), {''}
  for i = 2, #records do
    if not wanted.take(sub(records[i], 7)) then rest[#rest + 1] = records[i] end
  end
  if #rest == #records then return true end
  take_entry(line, id, #records - 1)
  return #rest > 1 and rest
end

-- Write entries at the end of the stream, in their order: of each its id, its fields, and the records of a bundle of
-- which some were canceled, which is gone already. Each says when it became ready, so what is paused stays so.
local function write_again(line, entries)
  for _, entry in ipairs(entries) do
    local id, fields, records = unpack(entry, 1, 3)
    if not records then
      records = select(2, count_of(fields[2])) and open_records(line, id, fields[2])
      -- It only looks like a bundle.
      if records and #records == 1 then records = false end
      take_entry(line, id, records and #records - 1)
    end
    local count = records and #records - 1 or 1
    line.way = fields[8]
    add_entry(
      line, records and (count == 1 and sub(records[2], 7) or records) or fields[2], count, tonumber(fields[4] or 0),
      ready_id(id, fields))
  end
  line.way = nil
end

-- Cancel messages of the ready stream. Returns the ids of those that a worker has in hand.
-- Whoever reads a bundle is not told what is noted of it, so what is left of one is written again, and all that is
-- behind it, so that everything keeps its order. In a stream of more than UNREAD_MAX messages only what is left of
-- bundles is written again, at the end, because to write all would hold up everybody.
local function cancel_ready(line, wanted)
  local group = group_of(line.sms)
  local given, from, page = group and group['last-delivered-id'] or '0-0', '-', nil
  local in_hand, again, unread, before = {}, {}, count_unread(line), #wanted.canceled
  local function note(ids, payload)
    each_open(line.wait, payload, function(message)
      if wanted.read(message) then ids[#ids + 1] = id_in(message) end
    end)
  end
  local function look_at(id, fields)
    local left = true
    if string.find(fields[2], wanted.needle, 1, true) then
      if not is_behind(id, given) then
        note(in_hand, fields[2])
      elseif tonumber(fields[4] or 0) > 0 then
        note(wanted.before, fields[2])
      else
        left = cancel_unread(line, id, fields[2], wanted)
      end
    end
    if left == true then
      if again[1] and unread <= UNREAD_MAX then again[#again + 1] = {id, fields} end
    elseif left then
      again[#again + 1] = {id, fields, left}
    end
  end
  repeat
    page = call('XRANGE', line.sms, from, '+', 'COUNT', 200)
    for _, entry in ipairs(page) do
      from = '(' .. entry[1]
      look_at(entry[1], entry[2])
    end
  until #page < 200
  write_again(line, again)
  if #wanted.canceled > before then
    -- The numbers of entries do not say any more how many are unread, until one is read.
    line.counted, line.room = true, line.mark - unread + #wanted.canceled - before
  end
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

-- Cancel messages that wait in `count` chunks of a list, from `chunk` on; '': around the one that is likely for
-- `near`. Returns the first and the last chunk of the list, and the first and the last of those looked at; zeros
-- when nothing is in it.
local function cancel_waiting(line, list, wanted, near, chunk, count)
  if list.messages == 0 then return 0, 0, 0, 0 end
  local from = tonumber(chunk) or likely_chunk(line, list, near) - floor(count / 4)
  from = max(list.first, min(from, list.last))
  local to, names = min(from + count - 1, list.last), {}
  for n = from, to do names[#names + 1] = chunk_name(list, n) end
  for i, records in ipairs(values_of(line.wait, names)) do
    if records and string.find(records, wanted.needle, 1, true) then
      take_from_chunk(line, list, from + i - 1, names[i], records, wanted.take)
    end
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
--        now_us, bundle_max, near, chunk, chunks, place, places, number, due_at_us ...)
-- -> {ids that were canceled, ids that a worker has in hand, ids that a provider may have been given before, then
--     what `cancel_waiting` returns, then an array: the same of the lists of what is put off, each behind the
--     number of its way}
-- Takes messages of an organisation that no worker has been given from where they wait, with their units, and
-- records it. They are looked for in the ready stream, in the due set at each `due_at_us` and at the places
-- from `place` on, and in the list: see `cancel_waiting`. Where `chunk` is '', they are looked for in the list, and
-- in those of what is put off; else in the list of the way `number`, '' for none. So what a call costs does not grow
-- with what waits.
-- A message is canceled only where it is found, and a worker is given only what is in the stream, so it is either
-- canceled or sent. A second call finds nothing.
local function cancel(keys, args)
  local organisation, line = args[2], line_of(keys, 1, args[6])
  local wanted = wanted_of(tonumber(organisation), args[3], args[4])
  for i = 13, #args do cancel_due(keys[5], args[i], wanted) end
  if tonumber(args[11]) > 0 then cancel_due_at(keys[5], tonumber(args[10]), tonumber(args[11]), wanted) end
  local in_hand = cancel_ready(line, wanted)
  local near, chunk, count, way = args[7], args[8], tonumber(args[9]), ways.numbered(line, args[12])
  local first, last, from, to, put_off = 0, 0, 0, 0, {}
  if way or args[12] == '' then
    local list = way and ways.list(line, way, organisation) or list_of(line, organisation)
    first, last, from, to = cancel_waiting(line, list, wanted, near, chunk, count)
  end
  for _, other in ipairs(chunk == '' and line.put_off > 0 and ways.of(line) or {}) do
    local of = {cancel_waiting(line, ways.list(line, other, organisation), wanted, near, chunk, count)}
    if of[1] > 0 then put_off[#put_off + 1] = {other.number, unpack(of)} end
  end
  local ids = record_canceled(keys, args[1], organisation, args[5], wanted)
  finish(line)
  return {ids, in_hand, wanted.before, first, last, from, to, put_off}
end

-- cancel_campaign(the keys of `cancel`; queue, organisation, campaign, now_us, bundle_max, where, count, place ...)
-- -> {ids that were canceled, their units, ids that a worker has in hand, ids that a provider may have been given
--     before, the place to go on from}
-- The same for the messages of a campaign, in one of the places where messages wait: `where` is
--   due     and `place` is (at_us, number, id): see `cancel_due_before`
--   list    and `place` is the last of `count` chunks of the organisation's list; with the number of a way behind it,
--           of what is put off
--   ready   all of the ready stream
-- The place to go on from is empty at the end of `where`. A caller that goes through these in this order, and through
-- each from behind, meets every message that waited before: what moves on meanwhile goes from `due` to the end of the
-- list, from its front to the ready stream, and from there to a worker, or is put off to the end of another list.
local function cancel_campaign(keys, args)
  local organisation, line = args[2], line_of(keys, 1, args[5])
  local wanted, count = wanted_in(tonumber(organisation), args[3]), tonumber(args[7])
  local in_hand, place = {}, {}
  if args[6] == 'due' then
    place = cancel_due_before(keys[5], args[8], args[9], args[10], count, wanted)
  elseif args[6] == 'list' then
    local number = args[9] or ''
    local way = ways.numbered(line, number)
    local list = way and ways.list(line, way, organisation) or number == '' and list_of(line, organisation)
    if list then
      local chunk = min(tonumber(args[8]), list.last)
      local from = max(list.first, chunk - count + 1)
      if list.messages > 0 and chunk >= from then
        cancel_waiting(line, list, wanted, '', from, chunk - from + 1)
        if from > list.first then place = {format('%.0f', from - 1), number ~= '' and number or nil} end
      end
    end
    local following = #place == 0 and ways.following(line, tonumber(number) or 0)
    if following then place = {'1000000000000000', format('%.0f', following)} end
  else
    in_hand = cancel_ready(line, wanted)
  end
  local ids, units = record_canceled(keys, args[1], organisation, args[4], wanted)
  finish(line)
  return {ids, units, in_hand, wanted.before, place}
end
