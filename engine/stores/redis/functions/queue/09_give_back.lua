-- Note messages that come to where an audit may have been that counts the shard: they come back from the ready stream
-- or the dead letters, or go to another chunk of their list. See `recount`.
local function note_moved(moved, payloads)
  if payloads[1] and call('EXISTS', moved) == 1 then call_with('RPUSH', moved, payloads) end
end

-- A ready stream of more messages than this is left as it is: one is so long only beside an older version, or a while
-- after, and to read it would hold up everybody.
local UNREAD_MAX = 8192

-- Take messages that no worker has been given out of the ready stream: those of which `wanted[way][organisation]` is
-- true. `way`: what they were recalled from, '' for nothing. What is left of a bundle is written anew, and all that is
-- behind it, so that others keep their order. A message of a paused organisation is not written anew, because its new
-- id would say that it became ready after the pause: it is taken as well. What was in the hand of a worker that died
-- is left where it is among the others. Returns the way and the payload of each that was taken, in order.
local function take_unread(line, wanted)
  local group, taken = group_of(line.sms), {}
  if not group or count_unread(line) > UNREAD_MAX then return taken end
  local gone, at, left, found = {}, '', 0, false
  -- Keep a message behind those that were kept, in an entry as the one that it was in.
  local function keep(way, fields, segments, payload)
    left = left + 1
    if way ~= at then
      close_bundle(line)
      line.way, at = way ~= '' and way or nil, way
    end
    if tonumber(fields[4] or 0) > 0 then
      close_bundle(line)
      return add_entry(line, payload, 1, fields[4], fields[6])
    end
    bundle(line, record_of(segments or 0, payload), 1)
  end
  for _, entry in ipairs(call('XRANGE', line.sms, '(' .. group['last-delivered-id'], '+')) do
    local id, fields, messages = entry[1], entry[2], {}
    local way, was_given = fields[8] or '', tonumber(fields[4] or 0) > 0
    local of = not was_given and wanted[way] or {}
    each_open(line.wait, fields[2], function(payload)
      local organisation, segments = read_payload(payload)
      found = found or of[organisation or '']
      messages[#messages + 1] = {payload, organisation, segments}
    end)
    if found then
      gone[#gone + 1] = id
      line.bundled, line.changed = line.bundled - #messages + 1, true
      if select(2, count_of(fields[2])) then call('HDEL', line.wait, note_of(id)) end
      for _, message in ipairs(messages) do
        local payload, organisation, segments = unpack(message, 1, 3)
        local goes = organisation and not was_given
          and (of[organisation] or line.paused > 0 and list_of(line, organisation).paused)
        if goes then put(taken, way, payload) else keep(way, fields, segments, payload) end
      end
    else
      left = left + #messages
    end
  end
  close_bundle(line)
  line.way = nil
  if found then
    call_with('XDEL', line.sms, gone)
    -- The numbers of entries do not say any more how many are unread, until one is read.
    line.counted, line.room = true, line.mark - left
  end
  return taken
end

-- Put messages that nobody has begun to send back to the front of their list, in the order of their ids, which
-- is the order in which they were accepted: behind those there that are older, as far as these lie in the first
-- octets, CHUNK or a little more. Returns their segments. `finish` has to follow. `moved`: see `note_moved`.
local function put_back(line, list, payloads, moved)
  local came, segments_came = {}, 0
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
  elseif not list.paused and not list.way then
    list.start = list.start or next_start(line, list.organisation)
  end
  local read, merged = #chunk, false
  -- The next chunk becomes a part of this one. Those that `sift` or `cancel` has emptied are not there.
  local function read_on()
    local n, behind = list.first, false
    while not behind and n < list.last and read < CHUNK do
      n = n + 1
      behind = call('HGET', line.wait, chunk_name(list, n))
    end
    if not behind then return false end
    call('HDEL', line.wait, chunk_name(list, list.first))
    list.first, chunk, at, read, merged = n, behind, 1, read + #behind, true
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
  note_moved(moved, payloads)
  if merged then note_moved(moved, payloads_in(chunk, 1)) end
  if list.last < list.first then list.last = list.first end
  if list.last == list.first then list.tail = #chunk end
  list.taken, list.chunk = 0, false
  call('HSET', line.wait, chunk_name(list, list.first), chunk)
  count_waiting(line, list, #came, segments_came)
  if not list.paused and not list.way then line.busy = true end
  return segments_came
end

-- Count segments that came back to a list behind the ready stream: what its turns moved of them has not left the backlog.
-- Those that entered the stream at once were never counted.
local function count_back(line, list, segments)
  local begins = ways.begins(line)
  local began, now, before = window_of(list, begins)
  began, now, before = moved_in(began, now, before, 0, begins)
  local part = min(segments, now + before)
  list.back, line.back = list.back + part, line.back + part
  if part < segments and line.put_off > 0 then ways.take_from_ended(line, list.organisation, segments - part) end
end

-- Put messages of any organisations back to the front of their lists.
local function put_all_back(line, payloads, moved)
  local of, order = {}, {}
  for _, payload in ipairs(payloads) do
    local organisation = format('%.0f', cmsgpack.unpack(payload)[2])
    if not of[organisation] then
      of[organisation] = {}
      order[#order + 1] = organisation
    end
    table.insert(of[organisation], payload)
  end
  for _, organisation in ipairs(order) do
    local list = list_of(line, organisation)
    count_back(line, list, put_back(line, list, of[organisation], moved))
  end
end
