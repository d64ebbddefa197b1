#!lua name=smsreceipts
-- The atomic steps of matching receipts (Redis 7.0 functions): see engine/receipts/rounds.py.
--
-- Each function touches the keys of one shard only. A caller that lost the answer may call it again;
-- the notes say what the second call does. They have the flag `allow-oom`, because they empty the
-- streams of receipts when Redis is full.

-- lease(lock; owner, ttl_ms) -> 1 when the lease is the owner's now
-- When the clock of Redis was set back, the lease of one that has died would last for as long as that: it ends
-- as one of now does.
local function lease(keys, args)
  local owner = redis.call('GET', keys[1])
  if owner and owner ~= args[1] then
    if redis.call('PTTL', keys[1]) > 2 * args[2] then redis.call('PEXPIRE', keys[1], args[2]) end
    return 0
  end
  redis.call('SET', keys[1], args[1], 'PX', args[2])
  return 1
end

-- release(lock; owner)
local function release(keys, args)
  if redis.call('GET', keys[1]) == args[1] then redis.call('DEL', keys[1]) end
  return 1
end

-- begin(activity, applied; token, home ...) -> id of the last entry ever put on the activity stream
-- From now on only `token` may record here of attempts with these homes. Everything that others recorded of
-- them stands at or before the id. A second call, also a late one, takes the right from whoever began in
-- between; that one is refused and begins anew.
-- Versions that had one matcher for all keep its token in the field `token`. Where one of those has begun,
-- nobody else may record, and those that began before it never again.
local function begin(keys, args)
  if redis.call('HGET', keys[2], 'token') ~= 'homes' then
    redis.call('DEL', keys[2])
    redis.call('HSET', keys[2], 'token', 'homes')
  end
  for i = 2, #args do
    redis.call('HSET', keys[2], args[i], args[1])
    redis.call('HDEL', keys[2], 'number:' .. args[i], 'id:' .. args[i])
  end
  if redis.call('EXISTS', keys[1]) == 0 then return '0-0' end
  local stream = redis.call('XINFO', 'STREAM', keys[1])
  for i = 1, #stream, 2 do
    if stream[i] == 'last-generated-id' then return stream[i + 1] end
  end
end

-- record(activity, applied, due express, due normal; number, array of rows, how many homes the attempts have
--        that the rows are about, then per home: home, token;
--        then per message that is sent again: queue ('e' express, 'n' normal), due_at_us, payload)
-- -> id of the entry; '' when the token of a home is not the one that began last
-- Numbers count up. A second call, also a late one, has the same homes; it writes nothing and has the answer of
-- the first, which stands under the first home.
local function record(keys, args)
  local last = 3 + 2 * args[3]
  local number, id = 'number:' .. args[4], 'id:' .. args[4]
  local fields = {'token', number, id}
  for i = 4, last, 2 do fields[#fields + 1] = args[i] end
  local state = redis.call('HMGET', keys[2], unpack(fields))
  if state[1] ~= 'homes' then return '' end
  for i = 5, last, 2 do
    if state[(i + 3) / 2] ~= args[i] then return '' end
  end
  if state[2] and tonumber(args[1]) <= tonumber(state[2]) then return state[3] end
  local entry = redis.call('XADD', keys[1], '*', 'b', args[2])
  for i = last + 1, #args, 3 do
    redis.call('ZADD', args[i] == 'e' and keys[3] or keys[4], args[i + 1], args[i + 2])
  end
  redis.call('HSET', keys[2], number, args[1], id, entry)
  return entry
end

-- hand_on(receipts; array of receipts) -> id of the entry
-- The caller removes them from where they are afterwards. A second call puts them on once more: a receipt that
-- comes again adds nothing.
local function hand_on(keys, args)
  return redis.call('XADD', keys[1], '*', 'b', args[1])
end

-- finish(receipts, later, unreadable; then per entry: id, how many of it are for later (-1: it
--        cannot be read), then per receipt for later: due_at_us, member)
-- -> how many entries this call removed
-- Only the call that removes an entry keeps its receipts for later, so a second call does nothing.
local function finish(keys, args)
  local at, removed = 1, 0
  while at <= #args do
    local id, count = args[at], tonumber(args[at + 1])
    at = at + 2
    if count == -1 then
      local found = redis.call('XRANGE', keys[1], id, id)
      if found[1] then redis.call('XADD', keys[3], '*', 'i', id, 'b', found[1][2][2]) end
      count = 0
    end
    if redis.call('XDEL', keys[1], id) == 1 then
      removed = removed + 1
      for i = at, at + 2 * count - 1, 2 do redis.call('ZADD', keys[2], args[i], args[i + 1]) end
    end
    at = at + 2 * count
  end
  return removed
end

-- finish_late(later; then per receipt: member, due_at_us ('' when it is done with), new member)
-- -> how many this call removed
-- Only the call that removes a receipt puts the new one in, so a second call does nothing.
local function finish_late(keys, args)
  local removed = 0
  for i = 1, #args, 3 do
    if redis.call('ZREM', keys[1], args[i]) == 1 then
      removed = removed + 1
      if args[i + 1] ~= '' then redis.call('ZADD', keys[1], args[i + 1], args[i + 2]) end
    end
  end
  return removed
end

-- first(activity) -> id of the oldest entry, '' when there is none
-- The entry itself may be large, so it is not part of the answer.
local function first(keys)
  local found = redis.call('XRANGE', keys[1], '-', '+', 'COUNT', 1)
  return found[1] and found[1][1] or ''
end

local function register(name, step, flag)
  redis.register_function({
    function_name = 'receipts_' .. name .. VERSION, callback = step, flags = {flag or 'allow-oom'},
  })
end

register('lease', lease)
register('release', release)
register('begin', begin)
register('record', record)
register('hand_on', hand_on)
register('finish', finish)
register('finish_late', finish_late)
register('first', first, 'no-writes')
