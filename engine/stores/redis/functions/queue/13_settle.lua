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

-- settle(line, due, dead, activity, usage, head, held, held by organisation, ways, moved; name, mark, moment,
--        bundle_max, whole entries, of these bundles, messages in whole entries, parts of bundles, messages in parts,
--        dues, deads, rows, array of rows without header, sums, details,
--        then ids of whole entries, bundles first,
--        then per part: entry id, messages of the bundle, places (a byte each, from 0),
--        then per message that is due again: due_at_us, payload; then payloads of dead letters)
--        due_at_us 0: not due, but back to the front of its organisation's list. '@', '<' or '^' and the text of a way:
--        put off, there at the end, or back at the front; see `ways.of_payload` and `ways.give_back`.
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
  local wholes, bundles, parts = tonumber(args[5]), tonumber(args[6]), tonumber(args[8])
  local dues, deads = tonumber(args[10]), tonumber(args[11])
  local line = line_of(keys, 1, args[4])
  local ids, noted, first = {}, {}, 16
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

  local counted, rows, row_count = tonumber(args[7]) + tonumber(args[9]), args[13], tonumber(args[12])
  local due, back, dead, put_off, flat, summed = {}, {}, {}, {}, nil, args[14]
  local at_due, at_dead = part, part + 2 * dues
  local function put_due(at)
    local first = byte(args[at])
    if args[at] == '0' then
      back[#back + 1] = args[at + 1]
    else
      put((first == 64 or first == 60 or first == 94) and put_off or due, args[at], args[at + 1])
    end
  end
  if plain then
    if tonumber(args[7]) > wholes then
      line.bundled, line.changed = line.bundled - tonumber(args[7]) + wholes, true
    end
    for i = at_due, at_dead - 1, 2 do put_due(i) end
    for i = at_dead, at_dead + deads - 1 do dead[#dead + 1] = args[i] end
    flat = cmsgpack.unpack(args[14])
  else
    local sums, order, own_rows, puts, at_row = {}, {}, {}, {}, 1
    counted, row_count = 0, 0
    for i, of in ipairs(cmsgpack.unpack(args[15])) do
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
            puts[#puts + 1] = put
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
    -- In the order in which the worker settled them.
    table.sort(puts)
    for _, put in ipairs(puts) do put_due(at_due + 2 * put - 2) end
    rows, flat = concat(own_rows), {}
    for i, sum in ipairs(order) do flat[3 * i - 2], flat[3 * i - 1], flat[3 * i] = unpack(sum) end
    summed = cmsgpack.pack(flat)
  end

  if due[1] then
    local later = {}
    for i = 2, #due, 2 do later[i / 2] = due[i] end
    note_moved(keys[13], later)
  end
  note_moved(keys[13], dead)
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
  aim(line, args[2], args[3])
  if back[1] or put_off[1] then
    line.ways_key = keys[12]
    ways.give_back(line, back, put_off, keys[13])
  end
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
