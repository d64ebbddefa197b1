-- Take tokens out of the buckets of organisations with a most of messages a second. `args` from `at` on: how
-- many organisations, then of each: itself, its rate, how many messages of it were admitted.
-- A bucket holds one second of the rate, and at least one message. It may be overdrawn. It is kept as its tokens and when
-- that was, ms; the rate then has a field of its own, which older versions leave alone. Until now it filled at that rate,
-- or at the present one where that is higher. With another rate a debt is paid when it would have been, or sooner, so
-- that one at a high rate is none of hours at a low one (`_Bucket` in engine/limits/gate.py).
-- Returns array of {organisation, tokens left as text, its rate}.
local function draw(limits, args, at)
  local left, count = {}, tonumber(args[at] or 0)
  local now = count > 0 and now_ms()
  for i = 1, count do
    local organisation, rate = args[at + 3 * i - 2], tonumber(args[at + 3 * i - 1])
    local field, field_of_rate = 'rate:' .. organisation, 'rated:' .. organisation
    local full = max(1, rate)
    local known = call('HMGET', limits, field, field_of_rate)
    local tokens, seen = match(known[1] or '', '^(%S+) (%S+)$')
    if tokens then
      local before = tonumber(known[2] or rate)
      tokens = tokens + max(0, now - seen) * max(rate, before) / 1000
      tokens = min(full, tokens < 0 and max(tokens, tokens * rate / before) or tokens)
    end
    tokens = (tokens or full) - args[at + 3 * i]
    call('HSET', limits, field, format('%.3f %.0f', tokens, now), field_of_rate, format('%.17g', rate))
    left[i] = {organisation, format('%.3f', tokens), args[at + 3 * i - 1]}
  end
  return left
end

-- How many messages wait in the lists of `organisations`, those that a step has let messages in of: an organisation, its
-- messages, the next one, and so on, for each line; again with what is put off, where something is.
local function backlogs_of(lines, organisations)
  local found = {}
  for _, line in pairs(lines) do
    for _, organisation in ipairs(line.put_off > 0 and organisations or {}) do
      local name = format('%.0f', organisation)
      local put_off, list = ways.sums(line.wait, ways.of(line), name, 0), line.lists[name]
      if put_off > 0 then put(found, organisation, put_off + (list and list.messages or 0)) end
    end
    for _, lists in ipairs({line.order, line.parked}) do
      for _, list in ipairs(lists) do
        if list.changed and list.messages > 0 then
          local n = #found
          found[n + 1], found[n + 2] = tonumber(list.organisation), list.messages
        end
      end
    end
  end
  return found
end

-- The units of the organisations in `used`, each an organisation, its units, the next one, and so on, in MessagePack.
-- Returns the organisations, the units of each, all units, and what is one of `used` with the sums.
local function add_up(used)
  local organisations, units, held, at, n = {}, {}, 0, {}, 0
  for _, packed in ipairs(used) do
    local of = cmsgpack.unpack(packed)
    for i = 1, #of, 2 do
      local organisation, own = of[i], of[i + 1]
      local place = used[2] and at[organisation]
      if place then
        units[place] = units[place] + own
      else
        n = n + 1
        organisations[n], units[n] = organisation, own
        if used[2] then at[organisation] = n end
      end
      held = held + own
    end
  end
  if not used[2] then return organisations, units, held, used[1] end
  local flat = {}
  for i = 1, n do flat[2 * i - 1], flat[2 * i] = organisations[i], units[i] end
  return organisations, units, held, cmsgpack.pack(flat)
end

-- admit(holder, line express, line normal, due express, due normal, activity, usage, head, held,
--       held by organisation, generation, limits, idempotency keys ...; name, epoch, seq, idempotency_ttl_s,
--       submissions, notes, bundle_max, portions,
--       then per portion: index of its submission (of the first one, when it has no key), what to keep under the
--         next idempotency key ('' for a portion without one), organisations with their units (MessagePack),
--         rows, array of rows without header, pieces, dues,
--         then per piece: queue ('e' express, 'n' normal), messages, and of these: index and records as for
--           `enter_all`,
--         then per due: queue, due_at_us, payload,
--       then per note: kind, data, then what `draw` takes)
-- A portion is one submission with an idempotency key, or several without.
-- -> {status, hits, size, backlogs, tokens}: status 'applied', 'fenced' or 'unseen'; hits: {submission index,
--    fingerprint, answer} for each idempotency key used before; size: of how many submissions the flush
--    was that was applied under this sequence; backlogs and tokens: what `backlogs_of` and `draw` return,
--    neither in the answer to a second call.
--
-- A holder whose answer was lost sends the flush again under the same sequence. When it was applied,
-- its stored outcome is the answer, even when the holder was fenced since. Only the sequence is written
-- anew, as it is, so that a WAIT behind this call waits for replicas also on a new connection.
-- A holder whose clients have given up sends it again without its submissions (*withdrawn*): `size` says
-- which of the two was applied, and the other never will be.
-- While the shard has no generation, because Redis lost its data and the books are not closed yet,
-- every holder counts as fenced. 'unseen': this is a new run of Redis, and no ledger has looked yet
-- whether all data are there. The holder tries again later. Without this, a holder whose fence was
-- lost could spend units that others have been granted since.
local function admit(keys, args)
  local name, epoch, seq, ttl = args[1], args[2], tonumber(args[3]), args[4]
  local state = call('HMGET', keys[1], 'epoch', 'seq', 'reply', 'applied', 'size')
  if state[4] == epoch .. ':' .. args[3] then
    call('HSET', keys[1], 'seq', state[2])
    return {'applied', state[3] == '' and {} or cmsgpack.unpack(state[3]), tonumber(state[5])}
  end
  if state[1] ~= epoch then return {'fenced', {}, 0} end
  local generation = call('GET', keys[17])
  if not generation or sub(generation, 1, 8) == 'closing:' then return {'fenced', {}, 0} end
  if seq ~= tonumber(state[2]) + 1 then return {'fenced', {}, 0} end
  local chain = chain_of(keys[13], keys[14])
  if chain.unseen then return {'unseen', {}, 0} end

  local at, key = 9, 18
  local used, rows, row_count, hits = {}, {}, 0, {}
  local lines = {}
  local function line_at(queue)
    if not lines[queue] then lines[queue] = line_of(keys, queue == 'e' and 2 or 6, args[7]) end
    return lines[queue]
  end
  for _ = 1, tonumber(args[8]) do
    local pieces, dues = tonumber(args[at + 5]), tonumber(args[at + 6])
    local first = at + 7
    local due = first + 4 * pieces
    local fingerprint, answer
    if args[at + 1] ~= '' then
      key = key + 1
      fingerprint, answer = first_use(keys[key], args[at + 1], ttl)
    end
    if fingerprint then
      hits[#hits + 1] = {tonumber(args[at]), fingerprint, answer}
    else
      for i = first, due - 1, 4 do
        enter_all(line_at(args[i]), tonumber(args[i + 1]), args[i + 2], args[i + 3])
      end
      for i = due, due + 3 * dues - 1, 3 do
        call('ZADD', args[i] == 'e' and keys[10] or keys[11], args[i + 1], args[i + 2])
      end
      used[#used + 1] = args[at + 2]
      row_count = row_count + tonumber(args[at + 3])
      rows[#rows + 1] = args[at + 4]
    end
    at = due + 3 * dues
  end

  local organisations, units, held, flat = add_up(used)
  local backlogs = backlogs_of(lines, organisations)
  if lines['e'] then finish(lines['e']) end
  if lines['n'] then finish(lines['n']) end
  if row_count > 0 then
    local blob = '\221' .. string.char(
      floor(row_count / 16777216) % 256, floor(row_count / 65536) % 256,
      floor(row_count / 256) % 256, row_count % 256) .. (rows[2] and concat(rows) or rows[1])
    call('XADD', keys[12], '*', 'b', blob)
  end
  if used[1] then
    hold(keys[16], organisations, units)
    append(chain, 'usage', name, epoch, flat)
    call('INCRBY', keys[15], held)
  end
  for _ = 1, tonumber(args[6]) do
    append(chain, args[at], name, epoch, args[at + 1])
    at = at + 2
  end
  keep(chain)

  local reply = ''
  if #hits > 0 then reply = cmsgpack.pack(hits) end
  call(
    'HSET', keys[1], 'seq', seq, 'reply', reply, 'applied', epoch .. ':' .. args[3], 'size', args[5])
  return {'applied', hits, tonumber(args[5]), backlogs, draw(keys[18], args, at)}
end
