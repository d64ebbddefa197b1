-- The organisations that are paused, and by organisation what `limits` says of its pause.
local function paused_of(limits)
  local found, notes = {}, {}
  for note in string.gmatch(call('HGET', limits, 'paused') or '', '%S+') do
    local organisation = match(note, '^%d+')
    found[#found + 1] = organisation
    notes[organisation] = note
  end
  return found, notes
end

-- Put limits of one organisation in force in the ways of a line. `weights`, `pauses`: as they were, and as they are.
function ways.limit(wait, ways_key, organisation, weights, pauses)
  local all = ways.read(call('HGET', wait, 'ways'))
  if not all[1] then return end
  for _, way in ipairs(all) do
    local name = ways.name(organisation, way)
    local kept = call('HGET', wait, name)
    local of = kept and cmsgpack.unpack(kept)
    if of and of[5] > 0 then
      way.weight = way.weight + (pauses[2] and 0 or weights[2]) - (pauses[1] and 0 or weights[1])
    end
    if of and pauses[2] and not pauses[1] then
      call('ZREM', ways_key, ways.turn(way, of[10], organisation))
      if of[5] == 0 then call('HDEL', wait, name) end
    elseif of and pauses[1] and not pauses[2] then
      of[10] = max(way.time, of[10])
      call('HSET', wait, name, cmsgpack.pack(of))
      call('ZADD', ways_key, 0, ways.turn(way, of[10], organisation))
    end
  end
  call('HSET', wait, 'ways', ways.pack(all))
end

-- Put limits of one organisation in force in one line; what waits takes its turns by them from then on.
local function limit_turns(keys, first, organisation, weight, paused)
  local wait, turns, ahead = keys[first + 1], keys[first + 2], keys[first + 3]
  local name = limits_name(organisation)
  local known = call('HMGET', wait, organisation, name, 'time')
  local weight_before, paused_before = read_limits(known[2])
  if weight == weight_before and paused == paused_before then return end
  if weight == 1 and not paused then
    call('HDEL', wait, name)
  else
    call('HSET', wait, name, format('%.17g', weight) .. (paused and ' paused' or ''))
  end
  count_in(wait, 'limited', ((weight ~= 1 or paused) and 1 or 0) - (known[2] and 1 or 0))
  count_in(wait, 'paused', (paused and 1 or 0) - (paused_before and 1 or 0))
  ways.limit(wait, keys[first == 2 and 10 or 11], organisation, {weight_before, weight}, {paused_before, paused})
  if not known[1] then return end
  local messages = cmsgpack.unpack(known[1])[5]
  local extra = (paused and 0 or weight - 1) - (paused_before and 0 or weight_before - 1)
  if extra ~= 0 then call('HINCRBYFLOAT', wait, 'extra', extra) end
  if paused == paused_before then return end
  -- While it is paused it is like one that has no list: what it was served ahead is kept in `ahead`.
  local from, to = ahead, turns
  if paused then from, to = turns, ahead end
  local start = max(tonumber(known[3] or 0), tonumber(call('ZSCORE', from, organisation) or 0))
  call('ZREM', from, organisation)
  call('ZADD', to, format('%.17g', start), organisation)
  count_in(wait, 'parked', paused and messages or -messages)
  call('HINCRBY', wait, 'messages', paused and -messages or messages)
end

-- The last ids that the ready streams of both queues gave, each behind a colon. `keys`: as for `limit`.
local function last_ids(keys)
  local found = ''
  for first = 2, 6, 4 do
    found = found .. ':' .. (stream_of(keys[first])['last-generated-id'] or '0-0')
  end
  return found
end

-- limit(limits, line express, line normal, ways express, ways normal; known, version, whole,
--       then per organisation: itself, weight, '1' when it is paused, else '')
-- -> 1 when these limits are in force now, 0 when others are than those that the caller has seen: `known` is
--    their version, '' for none
-- `whole`, '1': organisations that are not named have no limits of their own any more; '': they keep theirs.
-- An organisation without limits has the weight 1 and is not paused. A second call does nothing.
--   limits  hash: version          of the limits that are in force
--                 paused           the organisations that are paused, with blanks between, and of each the last ids
--                                  that the ready streams had given by then: <organisation>:<express>:<normal>
--                 <organisation>   those that have limits
--                 rate:<organisation>   its bucket: see `draw`
--                 rated:<organisation>  the rate at which that fills
local function limit(keys, args)
  if (call('HGET', keys[1], 'version') or '') ~= args[1] then return 0 end
  local rows, named, paused, last = {}, {}, {}, nil
  for i = 4, #args, 3 do
    rows[#rows + 1] = {args[i], tonumber(args[i + 1]), args[i + 2] == '1'}
    named[args[i]] = true
  end
  if args[3] == '1' then
    for _, organisation in ipairs(call('HKEYS', keys[1])) do
      if match(organisation, '^%d+$') and not named[organisation] then
        rows[#rows + 1] = {organisation, 1, false}
        named[organisation] = true
      end
    end
  end
  local paused_before, notes = paused_of(keys[1])
  for _, organisation in ipairs(paused_before) do
    if not named[organisation] then paused[#paused + 1] = notes[organisation] end
  end
  for _, row in ipairs(rows) do
    if row[3] then
      last = last or last_ids(keys)
      paused[#paused + 1] = notes[row[1]] or row[1] .. last
    end
    if row[2] == 1 and not row[3] then
      call('HDEL', keys[1], row[1])
    else
      call('HSET', keys[1], row[1], '')
    end
  end
  call('HSET', keys[1], 'version', args[2], 'paused', concat(paused, ' '))
  for first = 2, 6, 4 do
    for _, row in ipairs(rows) do limit_turns(keys, first, row[1], row[2], row[3]) end
    local line = line_of(keys, first)
    line.busy, line.known = line.busy or line.messages > 0, {}
    finish(line)
  end
  return 1
end

-- What is known of the backlog of one organisation: its messages, segments, and segments that were moved
-- lately; and its list. Nothing when it has none.
local function backlog_of(wait, organisation, at_s)
  local kept = call('HGET', wait, organisation)
  if not kept then return end
  local of = cmsgpack.unpack(kept)
  return of[5], of[6], moved_lately({of[7] or 0, of[8] or 0, of[9] or 0}, at_s), of
end

-- When the first message of a list was accepted.
local function oldest_in(wait, name, of)
  local chunk = first_chunk(wait, {organisation = name, first = of[1]})
  local _, size, from = struct_unpack('>HI4', chunk, of[3] + 1)
  return cmsgpack.unpack(sub(chunk, from, from + size - 1))[9]
end

-- backlog(line, limits, ways; organisations_max)
-- -> {messages in lists, of those of paused organisations that are not put off, segments that left lately,
--     {{organisation, messages, segments, accepted_at_us of its oldest, segments that left lately, weight as text,
--      1 when it is paused, messages that are put off, segments that its turns moved lately, segments that were put off
--      lately, {number of a way, its messages there, their segments ...}} ...},
--     messages in the ready stream that a worker has been given, and that none has, and messages in lists that are
--     put off,
--     {{number of a way, its text, messages there, the weight of those that wait there as text, segments that were
--      recalled from it lately and not put back} ...},
--     {messages in lists that are not put off and whose organisation is not paused, then as `pace_of`}}
-- The organisations that have a list, in the order of their turns, up to `organisations_max`, as many that have messages
-- put off, and as many of those that are paused. It reads only.
-- A list keeps the order of admission, so its first message is its oldest, retries aside.
local function backlog(keys, args)
  local found, shown, at_s = {}, {}, now_ms() / 1000
  local wait, all, line = keys[2], ways.read(call('HGET', keys[2], 'ways')), line_of(keys, 1)
  local between, sum = ways.between(line, all), 0
  local function show(organisation)
    if shown[organisation] then return end
    shown[organisation] = true
    local messages, segments, moved, of = backlog_of(wait, organisation, at_s)
    local oldest = messages and oldest_in(wait, organisation, of)
    local put_off, put_off_segments, recalled, off = ways.sums(wait, all, organisation, at_s)
    local waits = {}
    for _, way in ipairs(put_off > 0 and all or {}) do
      local name = ways.name(organisation, way)
      local kept = call('HGET', wait, name)
      of = kept and cmsgpack.unpack(kept)
      if of and of[5] > 0 then
        oldest = min(oldest or math.huge, oldest_in(wait, name, of))
        for _, value in ipairs({way.number, of[5], of[6]}) do waits[#waits + 1] = value end
      end
    end
    if not oldest then return end
    local weight, paused = read_limits(call('HGET', wait, limits_name(organisation)))
    local left = ways.left(moved or 0, recalled - (between[organisation] or 0), off)
    sum = sum + left
    found[#found + 1] = {
      tonumber(organisation), (messages or 0) + put_off, (segments or 0) + put_off_segments, oldest, left,
      tostring(weight), paused and 1 or 0, put_off, moved or 0, max(0, off), waits,
    }
  end
  for _, organisation in ipairs(call('ZRANGE', keys[3], 0, args[1] - 1)) do show(organisation) end
  for _, turn in ipairs(call('ZRANGE', keys[6], 0, args[1] - 1)) do show(sub(turn, 11)) end
  local paused = paused_of(keys[5])
  for i = 1, min(#paused, args[1]) do show(paused[i]) end
  local known = call('HMGET', wait, 'parked', 'moved', 'extra')
  local parked, unread, recalled, off = tonumber(known[1] or 0), count_unread(line), 0, 0
  for _, segments in pairs(between) do recalled = recalled - segments end
  local of_ways = {}
  for i, way in ipairs(all) do
    local moved = moved_lately({way.began, way.now, way.before}, at_s)
    of_ways[i] = {way.number, way.text, way.messages, tostring(way.weight), moved}
    recalled = recalled + moved
    off = off + moved_lately({way.began, way.off, way.off_before}, at_s)
  end
  -- What one has put off that waited nowhere before hides nothing that left the backlogs of others.
  local left = max(sum, ways.left(known[2] and moved_lately(cmsgpack.unpack(known[2]), at_s) or 0, recalled, off))
  return {
    line.messages + parked + line.put_off, parked, left, found,
    call('XLEN', line.sms) + line.bundled - unread, unread, line.put_off, of_ways,
    {line.messages, unpack(pace_of(known[2], known[3], keys[3], floor(1000 * at_s)))},
  }
end

-- backlogs(wait express, wait normal, turns express, turns normal; organisations ...)
-- -> {for each organisation {messages in its lists, put off or not, segments, 1 when it is paused, its weight as text,
--     then for each queue the segments in its list, those that are put off, and those that left lately},
--     for each queue what `pace_of` gives}
-- It reads only.
local function backlogs(keys, args)
  local found, at_ms, all, paces = {}, now_ms(), {}, {}
  for n = 1, 2 do
    local known = call('HMGET', keys[n], 'ways', 'moved', 'extra')
    all[n], paces[n] = ways.read(known[1]), pace_of(known[2], known[3], keys[n + 2], at_ms)
  end
  for i, organisation in ipairs(args) do
    local of = {0, 0, 0, '1'}
    for n = 1, 2 do
      local messages, segments, moved = backlog_of(keys[n], organisation, at_ms / 1000)
      local put_off, put_off_segments, recalled, off = ways.sums(keys[n], all[n], organisation, at_ms / 1000)
      of[1], of[2] = of[1] + (messages or 0) + put_off, of[2] + (segments or 0) + put_off_segments
      for _, value in ipairs({segments or 0, put_off_segments, ways.left(moved or 0, recalled, off)}) do
        of[#of + 1] = value
      end
    end
    local weight, paused = read_limits(call('HGET', keys[2], limits_name(organisation)))
    of[3], of[4] = paused and 1 or 0, tostring(weight)
    found[i] = of
  end
  return {found, paces}
end
