-- Whether the id `a` of an entry is behind the id `b` in their stream.
local function is_behind(a, b)
  local a_ms, a_seq = match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = match(b, '^(%d+)-(%d+)$')
  if a_ms ~= b_ms then return tonumber(a_ms) > tonumber(b_ms) end
  return tonumber(a_seq) > tonumber(b_seq)
end

-- unread(sms, wait; after, limit)
-- -> {about `limit` messages behind the entry `after` that no worker has been given, whether there are more}
--    as {{entry id, fields, which of its messages are settled ('' for none)} ...}
-- A bundle may exceed the limit.
local function unread(keys, args)
  local group, limit = group_of(keys[1]), tonumber(args[2])
  if not group then return redis.error_reply('NOGROUP The queue has no consumer group.') end
  local from, found, messages = group['last-delivered-id'], {}, 0
  if is_behind(args[1], from) then from = args[1] end
  local count = math.ceil(limit / 50)
  while messages < limit do
    local page = call('XRANGE', keys[1], '(' .. from, '+', 'COUNT', count)
    for _, entry in ipairs(page) do
      local size, is_bundle = count_of(entry[2][2])
      found[#found + 1] = {entry[1], entry[2], is_bundle and call('HGET', keys[2], note_of(entry[1])) or ''}
      messages = messages + size
      from = entry[1]
      if messages >= limit then return {found, 1} end
    end
    if #page < count then return {found, 0} end
    count = math.ceil((limit - messages) * #found / messages)
  end
  return {found, 1}
end

-- What a sweeper asks of all shards at once, so that it calls the functions of a shard only where they have
-- something to do. `names` keys belong to each shard; `look` gives a number for those that begin at its argument.
local function of_each(keys, names, look)
  local found = {}
  for first = 1, #keys, names do found[#found + 1] = look(first) end
  return found
end

-- due_in(due and wait of each shard; mark)
-- -> {by shard, the time from which on `promote` has something to do, microseconds: that of the first due message,
--    0 where messages wait for their turn or another mark stands there, -1 where nothing is;
--    by shard, what the hash has of its ways, '' for none}
local function due_in(keys, args)
  local found = {}
  local times = of_each(keys, 2, function(first)
    local known = call('HMGET', keys[first + 1], 'time', 'mark', 'ways')
    found[#found + 1] = known[3] or ''
    if known[1] or tonumber(known[2] or MARK) ~= tonumber(args[1]) then return 0 end
    return tonumber(call('ZRANGE', keys[first], 0, 0, 'WITHSCORES')[2] or -1)
  end)
  return {times, found}
end

-- unread_in(sms and wait of each shard)
-- -> by shard, 1 when `sift` or `unread` has something to look at: messages in lists, put off or not, or that nobody
--    was given
local function unread_in(keys)
  return of_each(keys, 2, function(first)
    local waiting = call('HMGET', keys[first + 1], 'messages', 'parked', 'put_off')
    if tonumber(waiting[1] or 0) + tonumber(waiting[2] or 0) + tonumber(waiting[3] or 0) > 0 then return 1 end
    local group = group_of(keys[first])
    if not group then return 1 end
    local last = call('XREVRANGE', keys[first], '+', '-', 'COUNT', 1)[1]
    return last and is_behind(last[1], group['last-delivered-id']) and 1 or 0
  end)
end

-- pending_in(sms and holders of each shard; name)
-- -> by shard, 1 when the worker `name` has pending entries, and 2 more when `take_over` has something to look
--    at: others have pending entries, or are fenced
local function pending_in(keys, args)
  return of_each(keys, 2, function(first)
    local consumers = redis.pcall('XINFO', 'CONSUMERS', keys[first], GROUP)
    -- The functions that are called then say why.
    if consumers.err then return 3 end
    local own, others = 0, 0
    for _, info in ipairs(consumers) do
      if info[2] == args[1] then
        own = min(1, info[4])
      elseif info[4] > 0 or call('HEXISTS', keys[first + 1], info[2]) == 0 then
        others = 2
      end
    end
    return own + others
  end)
end
