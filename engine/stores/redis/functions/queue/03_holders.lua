-- register(holder, holders; name) -> epoch
-- Begins a new epoch of the holder at sequence 0. A second call begins a second epoch; the first
-- one was never used. The epoch comes from the clock, so that no epoch comes again when Redis goes
-- back to an older state: a flush of the one epoch must not count in the other. The stored outcome
-- of the last flush stays, because this call may be a late one and that flush may be sent again.
local function register(keys, args)
  local time = call('TIME')
  local before = tonumber(call('HGET', keys[1], 'epoch') or '0')
  local epoch = max(before + 1, time[1] * 1000000 + time[2])
  call('HSET', keys[1], 'epoch', format('%.0f', epoch), 'seq', 0)
  call('PERSIST', keys[1])
  call('HSET', keys[2], args[1], now_ms())
  return epoch
end

-- beat(holders[, holder]; name[, epoch, seq]) -> 1 when the holder is alive, 0 when it was fenced
-- `seq` is the last flush of the holder that Redis answered. When Redis has not stored it, Redis
-- went back to an older state, and some of what the holder admitted or asked for is gone. The
-- holder then counts as fenced.
local function beat(keys, args)
  if call('HEXISTS', keys[1], args[1]) == 0 then return 0 end
  if keys[2] then
    local known = call('HMGET', keys[2], 'epoch', 'seq')
    if known[1] ~= args[2] or tonumber(known[2]) < tonumber(args[3]) then return 0 end
  end
  call('HSET', keys[1], args[1], now_ms())
  return 1
end

-- overdue(holders; age_ms) -> names of holders whose last beat is more than `age_ms` ago
-- A beat that is still to come is one of now: the clock was set back.
local function overdue(keys, args)
  local now, found = now_ms(), {}
  local beats = call('HGETALL', keys[1])
  for i = 1, #beats, 2 do
    local at = tonumber(beats[i + 1])
    if at > now then call('HSET', keys[1], beats[i], now) end
    if at < now - args[1] then found[#found + 1] = beats[i] end
  end
  return found
end

-- fence(holder, holders, usage, head, inbox; name) -> 1 when this call fenced it, 0 when it was not
--   registered
-- Ends the epoch first and appends the marker second, so all valid usage of the holder stands before
-- the marker. Takes the name out of `holders` last: when a step before it fails, the holder is still
-- registered, and the same call does everything again. A second marker ends no further quota.
local function fence(keys, args)
  if call('HEXISTS', keys[2], args[1]) == 0 then return 0 end
  local chain = chain_of(keys[3], keys[4])
  local epoch = call('HINCRBY', keys[1], 'epoch', 1)
  call('EXPIRE', keys[1], 86400)
  append(chain, 'fence', args[1], format('%.0f', epoch - 1), '')
  keep(chain)
  call('DEL', keys[5])
  call('HDEL', keys[2], args[1])
  return 1
end

-- Keep a fingerprint and an answer under an idempotency key for `ttl` seconds, unless the key was
-- used before: then return the fingerprint and the answer of that first use. `kept` is both in one string:
-- a byte with the length of the fingerprint, the fingerprint, the answer. An older version of the
-- engine kept a hash with the fields `f` and `a`.
local function first_use(key, kept, ttl)
  local old = redis.pcall('SET', key, kept, 'NX', 'GET', 'EX', ttl)
  if not old then return nil end
  if type(old) == 'table' then
    old = call('HMGET', key, 'f', 'a')
    return old[1], old[2]
  end
  local size = byte(old)
  return sub(old, 2, size + 1), sub(old, size + 2)
end
