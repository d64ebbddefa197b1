-- make_group(sms) -> 1 when this call made the consumer group, 0 when it was there
-- The group begins at the first entry of the stream.
local function make_group(keys)
  local made = redis.pcall('XGROUP', 'CREATE', keys[1], GROUP, '0', 'MKSTREAM')
  if made.ok then return 1 end
  if string.find(made.err, 'BUSYGROUP', 1, true) then return 0 end
  return made
end

-- take_over(line, holders; name, min_idle_ms, limit, suspects, deliveries_max)
-- -> {{{entry id, fields, deliveries of this entry} ...}, how many suspects were passed over,
--     how many messages were taken out of bundles}
-- Takes the entries of fenced workers, and entries that have been idle for `min_idle_ms` with a
-- living one. Removes fenced workers that have no entries left from the group.
--
-- When a worker dies, each of its entries has been delivered once more, and at most one of them has
-- killed it. An entry that becomes a dead letter with its next delivery is a *suspect*. At most
-- `suspects` of them are taken. The others stay where they are, and their deliveries do not count up,
-- until the ones taken are settled.
--
-- A bundle is taken apart instead: each message that is not settled goes to the end of the ready stream, in an
-- entry of its own that says how often the message was delivered, and in which entry it became ready. So a message that
-- kills workers does not take others with it. At most MOVED_MAX messages, and those of one bundle, are moved in a step.
local function take_over(keys, args)
  local name, limit, suspects = args[1], tonumber(args[3]), tonumber(args[4])
  -- A worker of an older version does not send `deliveries_max`.
  local last_chance = tonumber(args[5] or '3') - 1
  local line = line_of(keys, 1)
  local taken, passed, apart = {}, 0, 0
  local function take_apart(id, fields, deliveries)
    each_open(line.wait, fields[2], function(message)
      add_entry(line, message, 1, deliveries, ready_id(id, fields))
      apart, line.bundled = apart + 1, line.bundled - 1
    end)
    call('XACK', line.sms, GROUP, id)
    call('XDEL', line.sms, id)
    call('HDEL', line.wait, note_of(id))
    line.bundled = line.bundled + 1
  end
  local function claim(consumer, min_idle)
    local from, pending = '-', nil
    repeat
      pending = call('XPENDING', line.sms, GROUP, 'IDLE', min_idle, from, '+', limit, consumer)
      for _, p in ipairs(pending) do
        if #taken == limit or apart >= MOVED_MAX then return end
        local entry = call('XRANGE', line.sms, p[1], p[1])[1]
        local fields = entry and entry[2] or {}
        local deliveries = p[4] + (fields[4] or 0)
        local _, is_bundle = count_of(fields[2] or '')
        if is_bundle then
          take_apart(p[1], fields, deliveries)
        elseif deliveries == last_chance and suspects == 0 then
          passed = passed + 1
        else
          local claimed = call('XCLAIM', line.sms, GROUP, name, min_idle, p[1])
          if claimed[1] then
            taken[#taken + 1] = {p[1], fields, p[4] + 1}
            if deliveries == last_chance then suspects = suspects - 1 end
          end
        end
        from = '(' .. p[1]
      end
    until #pending < limit
  end
  for _, info in ipairs(call('XINFO', 'CONSUMERS', line.sms, GROUP)) do
    local consumer, pending = info[2], info[4]
    if consumer ~= name and #taken < limit then
      if call('HEXISTS', keys[5], consumer) == 1 then
        if pending > 0 then claim(consumer, args[2]) end
      elseif pending > 0 then
        claim(consumer, 0)
      else
        call('XGROUP', 'DELCONSUMER', line.sms, GROUP, consumer)
      end
    end
  end
  keep_ready(line)
  return {taken, passed, apart}
end

-- sift(line; cursor, chunks, bundle_max) -> {next cursor ('0' at the end), how many were moved}
-- Looks at about so many chunks of the lists, and moves messages whose validity is over to the ready stream,
-- whoever's turn it is. Whoever is given one ends it, and so does a look at what is unread.
-- A second call looks at the same chunks, and finds nothing more in them.
local function sift(keys, args)
  local line, now_us, over, seen = line_of(keys, 1, args[3]), now_ms() * 1000, {}, {}
  local page = call('HSCAN', line.wait, args[1], 'COUNT', args[2])
  for i = 1, #page[2], 2 do
    local field, chunk = page[2][i], page[2][i + 1]
    local organisation, number, n = match(field, '^(%d+)@?(%d*):(%d+)$')
    local way = organisation and ways.numbered(line, number)
    if organisation and not seen[field] and (way or number == '') then
      seen[field] = true
      local list = way and ways.list(line, way, organisation) or list_of(line, organisation)
      take_from_chunk(line, list, tonumber(n), field, chunk, function(payload, record)
        local readable, message = pcall(cmsgpack.unpack, payload)
        local is_over = readable and message[10] <= now_us
        if is_over then over[#over + 1] = record end
        return is_over
      end)
    end
  end
  table.sort(over)
  for _, record in ipairs(over) do bundle(line, record, 1) end
  finish(line)
  return {page[1], #over}
end
