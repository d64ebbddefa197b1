-- cut(sms express, sms normal, due express, due normal, dead express, dead normal,
--     wait express, wait normal, activity, usage, head, held;
--     position ('' when the books cannot be read), link, rows_max, entries_max, messages_max)
-- -> {state, held, usage entries behind `position`, waiting, recount, first activity id,
--     activity sums}
-- The state of a shard at one instant, for the audit. It reads only.
--   state         0 when the usage stream goes on from `position`, or the books cannot be read; 1 when
--                 it does not, because entries after `position` were trimmed or Redis went back to an
--                 older state; 2 when it has more than `entries_max` entries after `position`
--   waiting       how many messages there are; `recount` is the sum of their units, -1 when there are
--                 more than `messages_max`
--   first         id of the first activity entry; with a `+` behind it, the last id that the stream
--                 ever gave, when no entry is there; '' when there is no stream
--   activity sums MessagePack array of {organisation, event, units} of the activity on the stream, ''
--                 when that has more than `rows_max` rows
-- While it runs, Redis serves nobody else, so the bounds keep it short.
local function cut(keys, args)
  local position, rows_max, entries_max = args[1], tonumber(args[3]), tonumber(args[4])

  local state, usage = 0, {}
  if position ~= '' and link_at(chain_of(keys[10], keys[11]), position) ~= args[2] then
    state = 1
  elseif position ~= '' then
    usage = call('XRANGE', keys[10], '(' .. position, '+', 'COUNT', entries_max + 1)
    if #usage > entries_max then state, usage = 2, {} end
  end

  local waiting, recount = 0, 0
  for _, i in ipairs({1, 2, 5, 6}) do waiting = waiting + call('XLEN', keys[i]) end
  for _, i in ipairs({3, 4}) do waiting = waiting + call('ZCARD', keys[i]) end
  for _, i in ipairs({7, 8}) do
    for _, count in ipairs({'messages', 'parked', 'bundled', 'put_off'}) do
      waiting = waiting + (call('HGET', keys[i], count) or 0)
    end
  end
  if waiting > tonumber(args[5]) then
    recount = -1
  else
    local streams, sets, waits = {keys[1], keys[2], keys[5], keys[6]}, {keys[3], keys[4]}, {keys[7], keys[8]}
    each_message(streams, sets, waits, function(_, units) recount = recount + units end)
  end

  local first, sums = '', ''
  local activity = stream_of(keys[9])
  if activity['length'] == 0 then
    first = activity['last-generated-id'] .. '+'
  elseif activity['length'] then
    first = activity['first-entry'][1]
  end
  if position ~= '' and (activity['length'] or 0) <= rows_max then
    local totals, order, rows = {}, {}, 0
    for _, entry in ipairs(call('XRANGE', keys[9], '-', '+')) do
      local readable, batch = pcall(cmsgpack.unpack, entry[2][2])
      -- The archiver moves an entry that cannot be read aside; it has no rows here.
      if not readable then batch = {} end
      rows = rows + #batch
      if rows > rows_max then break end
      for _, row in ipairs(batch) do
        local name = row[2] .. ' ' .. row[5]
        if not totals[name] then
          totals[name] = {row[2], row[5], 0}
          order[#order + 1] = totals[name]
        end
        totals[name][3] = totals[name][3] + row[11]
      end
    end
    if rows <= rows_max then sums = #order > 0 and cmsgpack.pack(order) or '\144' end
  end
  return {state, call('GET', keys[12]) or '0', usage, waiting, recount, first, sums}
end
