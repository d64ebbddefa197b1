-- recount(moved, activity, held, sms express, sms normal, due express, due normal, dead express, dead normal,
--         wait express, wait normal; token, ttl_ms, place, read, entries_max, what, queue, from, member, count)
-- -> {state, place, read, batches of activity, messages that moved, page, from, member, held}
-- One step of counting all messages of a shard while they move. `engine/stores/redis/recounting.py` has the method,
-- and why it is exact. Each step is one instant, and says what has happened since the step before.
--   state   'counted'; 'behind': there were more than `entries_max` entries of activity, and there is no page;
--           'lost': entries were trimmed before they were read, or `moved` is gone: begin again;
--           'taken': another audit counts the shard
--   place   of the last entry of activity that was read; `read`: how many the stream has had up to that
--   page    of `what` ('begin', 'due', 'wait', 'dead', 'ready', 'end'), of the queue 1 (express) or 2 (normal):
--           payloads, or records of lists (`wait`), behind `from` and `member`, about `count` of them. `from` and
--           `member` say where the next page begins; '' and '' when there is none
--   held    what the shard says that its messages hold, with the last page of `end`; else ''
-- `end` has what has come to the ready streams behind the entries `from` and `member`. It is the last page when that
-- is all. `moved` is a list that is there while somebody counts: the token, and then payloads (see `note_moved`).
-- It is gone `ttl_ms` after the last step.
local function recount(keys, args)
  local token, place, read, entries_max = args[1], args[3], tonumber(args[4]), tonumber(args[5])
  local what, queue, from, member, count = args[6], tonumber(args[7]), args[8], args[9], tonumber(args[10])
  local stream, counts = stream_of(keys[2]), call('LINDEX', keys[1], 0)
  local last, added = stream['last-generated-id'] or '0-0', stream['entries-added'] or 0
  if what == 'begin' then
    if counts and counts ~= token then return {'taken'} end
    call('DEL', keys[1])
    call('RPUSH', keys[1], token)
    call('PEXPIRE', keys[1], args[2])
    return {'counted', last, added, {}, {}, {}, '', '', ''}
  end
  if counts ~= token then return {'lost'} end
  local moved = call('LRANGE', keys[1], 1, -1)
  call('LTRIM', keys[1], 0, 0)
  call('PEXPIRE', keys[1], args[2])
  local batches = {}
  for i, entry in ipairs(call('XRANGE', keys[2], '(' .. place, '+', 'COUNT', entries_max + 1)) do
    if i > entries_max then return {'behind', place, read, batches, moved, {}, from, member, ''} end
    place, read, batches[i] = entry[1], read + 1, entry[2][2]
  end
  if read ~= added then return {'lost'} end

  local page, held = {}, ''
  local function keep(payload) page[#page + 1] = payload end
  -- The entries of a stream behind `id`. Returns the id behind which to go on, and whether those are all.
  local function read_stream(key, id, wait)
    local entries = call('XRANGE', key, id == '' and '-' or '(' .. id, '+', 'COUNT', count)
    for _, entry in ipairs(entries) do
      id = entry[1]
      each_open(wait, entry[2][2], keep)
    end
    return id, #entries < count
  end
  if what == 'due' then
    local due, at = keys[5 + queue], 0
    if member ~= '' then
      at = call('ZREVRANK', due, member)
      at = at and at + 1 or call('ZCOUNT', due, '(' .. from, '+inf')
    end
    local flat = call('ZREVRANGE', due, at, at + count - 1, 'WITHSCORES')
    for i = 1, #flat, 2 do
      member, from = flat[i], flat[i + 1]
      each_open(keys[9 + queue], member, keep)
    end
    if #flat < 2 * count then from, member = '', '' end
  elseif what == 'wait' then
    local wait, kept = keys[9 + queue], {}
    local found = call('HSCAN', wait, from == '' and '0' or from, 'COUNT', count)
    for i = 1, #found[2], 2 do
      local organisation, number = match(found[2][i], '^(%d+@?%d*):(%d+)$')
      if organisation then
        kept[organisation] = kept[organisation] or call('HGET', wait, organisation) or ''
        local first, final, taken = 1, 0, 0
        if kept[organisation] ~= '' then first, final, taken = unpack(cmsgpack.unpack(kept[organisation])) end
        number = tonumber(number)
        if number >= first and number <= final then
          keep(number == first and sub(found[2][i + 1], taken + 1) or found[2][i + 1])
        end
      end
    end
    from = found[1] == '0' and '' or found[1]
  elseif what == 'end' then
    local all, other
    from, all = read_stream(keys[4], from, keys[10])
    member, other = read_stream(keys[5], member, keys[11])
    if all and other then held = call('GET', keys[3]) or '0' end
  else
    local key, all = what == 'dead' and keys[7 + queue] or keys[3 + queue], nil
    from, all = read_stream(key, from, what == 'ready' and keys[9 + queue] or false)
    member = all and '' or 'more'
  end
  return {'counted', place, read, batches, moved, page, from, member, held}
end
