-- Call `read` with each payload in the lists of a line.
local function each_waiting(wait, read)
  local flat, fields = call('HGETALL', wait), {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  for organisation, kept in pairs(fields) do
    if match(organisation, '^%d+$') or match(organisation, '^%d+@%d+$') then
      local of = cmsgpack.unpack(kept)
      for n = of[1], of[2] do
        local chunk = fields[organisation .. ':' .. format('%.0f', n)] or ''
        local at = n == of[1] and of[3] + 1 or 1
        while at <= #chunk do
          local _, size, from = struct_unpack('>HI4', chunk, at)
          read(sub(chunk, from, from + size - 1))
          at = from + size
        end
      end
    end
  end
end

-- Call `count` with the organisation and the units of each message in these streams, sorted sets and lists.
-- The first of `streams` are the ready streams of the lines of `waits`, and `sets` their due sets.
-- A payload that cannot be read is passed over: a dead letter may be such a one.
local function each_message(streams, sets, waits, count)
  local function read(payload)
    local readable, message = pcall(cmsgpack.unpack, payload)
    if readable and type(message) == 'table' and tonumber(message[8]) then
      count(message[2], message[8])
    end
  end
  for i, key in ipairs(streams) do
    for _, entry in ipairs(call('XRANGE', key, '-', '+')) do
      each_open(waits[i], entry[2][2], read)
    end
  end
  for i, key in ipairs(sets) do
    for _, payload in ipairs(call('ZRANGE', key, 0, -1)) do each_open(waits[i], payload, read) end
  end
  for _, key in ipairs(waits) do each_waiting(key, read) end
end

-- tally(held, held by organisation, sms express, sms normal, due express, due normal, dead express,
--       dead normal, wait express, wait normal)
-- -> array of {organisation, units} that the messages here hold
-- The answer is `by`, when it adds up to the sum. It does not when an older version of the
-- engine, which kept the sum alone, wrote here last. Then all messages are read, once, and both are
-- written anew. That takes 5 µs a message, during which Redis serves nobody else.
local function tally(keys)
  local by, sums, total = keys[2], {}, 0
  local flat = call('HGETALL', by)
  for i = 1, #flat, 2 do
    sums[#sums + 1] = {tonumber(flat[i]), tonumber(flat[i + 1])}
    total = total + flat[i + 1]
  end
  if total == tonumber(call('GET', keys[1]) or '0') then return sums end

  local at
  sums, at, total = {}, {}, 0
  local streams, sets, waits = {keys[3], keys[4], keys[7], keys[8]}, {keys[5], keys[6]}, {keys[9], keys[10]}
  each_message(streams, sets, waits, function(organisation, units)
    if not at[organisation] then
      at[organisation] = {organisation, 0}
      sums[#sums + 1] = at[organisation]
    end
    at[organisation][2] = at[organisation][2] + units
    total = total + units
  end)
  call('DEL', by)
  call('SET', keys[1], total)
  for _, sum in ipairs(sums) do
    if sum[2] ~= 0 then call('HSET', by, sum[1], sum[2]) end
  end
  return sums
end

-- seal(generation, holders, usage, head, then holder and inbox of each of `names`;
--      generation seen ('' for none), fresh generation, the books' generation, position and link,
--      names ...)
-- -> where the entries of the usage stream begin that the books have not applied, as a start for
--    XRANGE. 0 when `names` are not all the holders: the caller reads them again. Nothing when the
--    shard's generation is not the one seen: the call is late, and another ledger has gone on.
-- The first of two steps that close a shard. It ends the epoch of every holder. From then on nothing
-- but settlements is appended, until `begin`. A second call before `close` has the same answer.
local function seal(keys, args)
  local seen = call('GET', keys[1]) or ''
  if seen ~= args[1] then return false end
  if call('HLEN', keys[2]) ~= #args - 5 then return 0 end
  for i = 6, #args do
    if call('HEXISTS', keys[2], args[i]) == 0 then return 0 end
  end
  call('SET', keys[1], 'closing:' .. args[2])
  for i = 5, #keys, 2 do
    call('HINCRBY', keys[i], 'epoch', 1)
    call('DEL', keys[i + 1])
  end
  call('DEL', keys[2])

  local from = call('HGET', keys[4], 'from')
  if from then return from end
  local chain = chain_of(keys[3], keys[4])
  if link_at(chain, args[4]) == args[5] then
    from = '(' .. args[4]
  elseif sub(seen, 1, 8) == 'closing:' and seen ~= 'closing:' .. args[3] then
    -- An earlier close that the books do not know of has begun this stream.
    from = '-'
  else
    from = '(' .. (chain.since or stream_of(keys[3])['last-generated-id'] or '0-0')
  end
  call('HSET', keys[4], 'from', from)
  return from
end

-- close(generation, usage, head, held, held by organisation, sms express, sms normal, due express,
--       due normal, dead express, dead normal, wait express, wait normal; fresh generation, from where on
--       the usage was not read yet, then per organisation: itself, units used, captured and released in
--       what was read)
-- -> array of {organisation, units, news}. `units`: what the messages still here hold, and what
--    settlements that the books have not applied took from that. `news`: how much of it was held by
--    usage that the books have not applied.
--    Nothing when the shard was not sealed for this generation, or another ledger has gone on.
-- Begins the usage stream anew with those settlements as one entry. A second call before the books
-- are closed keeps the settlements that came in between. The caller has read the usage page by page
-- before, so that this step has few entries to read.
local function close(keys, args)
  if call('GET', keys[1]) ~= 'closing:' .. args[1] then return false end
  local sums, order = {}, {}
  local function of(organisation)
    if not sums[organisation] then
      sums[organisation] = {organisation, 0, 0, 0, 0}
      order[#order + 1] = sums[organisation]
    end
    return sums[organisation]
  end
  local function add(organisation, used, captured, released)
    local sum = of(organisation)
    sum[3], sum[4], sum[5] = sum[3] + used, sum[4] + captured, sum[5] + released
  end
  for i = 3, #args, 4 do
    add(tonumber(args[i]), tonumber(args[i + 1]), tonumber(args[i + 2]), tonumber(args[i + 3]))
  end
  for _, entry in ipairs(call('XRANGE', keys[2], args[2], '+')) do
    local kind = entry[2][2]
    local entry_units = (kind == 'usage' or kind == 'settle') and cmsgpack.unpack(entry[2][8]) or {}
    if kind == 'usage' then
      for i = 1, #entry_units, 2 do add(entry_units[i], entry_units[i + 1], 0, 0) end
    else
      for i = 1, #entry_units, 3 do add(entry_units[i], 0, entry_units[i + 1], entry_units[i + 2]) end
    end
  end

  local flat, left = {}, {}
  for _, sum in ipairs(order) do
    local n = #flat
    if sum[4] + sum[5] > 0 then flat[n + 1], flat[n + 2], flat[n + 3] = sum[1], sum[4], sum[5] end
  end
  for _, held in ipairs(tally({unpack(keys, 4)})) do of(held[1])[2] = held[2] end
  for i, sum in ipairs(order) do left[i] = {sum[1], sum[2] + sum[4] + sum[5], sum[3]} end
  -- The note tells the next ledger who went back, should this one end before the books are closed.
  local books = call('HGET', keys[3], 'books')
  call('UNLINK', keys[2], keys[3])
  if books then call('HSET', keys[3], 'books', books) end
  local chain = {usage = keys[2], head = keys[3], link = args[1]}
  if #flat > 0 then append(chain, 'settle', '', '0', cmsgpack.pack(flat)) end
  call('HSET', keys[3], 'link', chain.link, 'run', run_id())
  return left
end

-- begin(generation, head; name, run) -> 1 when the shard has this generation now and admits, else 0
-- It is given the name only when it was closed for that name, has it already, or never had one: a
-- late call must not bring back an earlier generation. `run` must be the present run of Redis, the
-- one that the ledger has looked at.
local function begin(keys, args)
  local seen = call('GET', keys[1])
  if args[2] ~= run_id() then return 0 end
  if seen and seen ~= args[1] then
    if seen ~= 'closing:' .. args[1] then return 0 end
  end
  call('SET', keys[1], args[1])
  call('HSET', keys[2], 'run', args[2])
  call('HDEL', keys[2], 'since')
  return 1
end
