#!lua name=smsinbound
-- The atomic steps of inbound messages (Redis 7.0 functions): see engine/inbound/inbox.py.

-- keep(stream, seen; now_ms, then per part: digest, until when it may come again (ms), payload)
-- -> how many were not there yet
-- A part is known again by its digest, for as long as it is in `seen`; so a provider that sends it again is
-- answered, and it is kept once. A second call after a lost answer keeps nothing twice. When Redis has no
-- memory left it is refused as a whole, and the provider sends again.
local function keep(keys, args)
  redis.call('ZREMRANGEBYSCORE', keys[2], '-inf', args[1])
  local added = 0
  for i = 2, #args, 3 do
    if redis.call('ZADD', keys[2], 'NX', args[i + 1], args[i]) == 1 then
      redis.call('XADD', keys[1], '*', 'b', args[i + 2])
      added = added + 1
    end
  end
  return added
end

-- set_aside(stream, unreadable; ids) -> how many entries this call moved to the other stream
local function set_aside(keys, args)
  local moved = 0
  for i = 1, #args do
    local found = redis.call('XRANGE', keys[1], args[i], args[i])
    if found[1] then
      redis.call('XADD', keys[2], '*', unpack(found[1][2]))
      moved = moved + redis.call('XDEL', keys[1], args[i])
    end
  end
  return moved
end

-- reply(stream, replied; id of the inbound message, replies_max, window_s, payload)
-- -> 1 when the reply is on the stream, or was, 0 when `replied` has `replies_max` already
-- `replied` has the ids of the messages of one sender that were answered in `window_s` from the first of them on.
-- A second call after a lost answer adds nothing.
local function reply(keys, args)
  if redis.call('SISMEMBER', keys[2], args[1]) == 1 then return 1 end
  local count = redis.call('SCARD', keys[2])
  if count >= tonumber(args[2]) then return 0 end
  redis.call('SADD', keys[2], args[1])
  if count == 0 then redis.call('EXPIRE', keys[2], args[3]) end
  redis.call('XADD', keys[1], '*', 'b', args[4])
  return 1
end

redis.register_function('inbound_keep' .. VERSION, keep)
redis.register_function('inbound_reply' .. VERSION, reply)
redis.register_function('inbound_set_aside' .. VERSION, set_aside)
