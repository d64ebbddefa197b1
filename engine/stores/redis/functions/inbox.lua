#!lua name=smsengine_inbox
-- What the ledger tells the holders (Redis 7.0 functions).

-- Above any id by the clock.
local FIRST = 17592186044416

-- deliver(head of the usage stream, inbox ...; row of the answer before these, inbox_max, ttl_s,
--         then per answer: its row, index of its inbox from 1, payload)
-- -> 1 when these answers are in their inboxes, 0 when the shard does not have the one before
--
-- Rows count up. `delivered` is the last one that this shard was given; what is not behind it
-- was delivered before, by this call or another ledger's, and is passed over. When it is less
-- than the row before these, Redis went back, and answers are gone for which somebody waits:
-- nothing is written. An answer's id is its row, not the time: a holder that reads on behind
-- the last one it has seen misses nothing, even when the clock went back too.
local function deliver(keys, args)
  local delivered = tonumber(redis.call('HGET', keys[1], 'delivered') or '0')
  if delivered < tonumber(args[1]) then return 0 end
  for i = 4, #args, 3 do
    local row, inbox = tonumber(args[i]), keys[1 + tonumber(args[i + 1])]
    if row > delivered then
      local id = string.format('%.0f-0', FIRST + row)
      redis.call('XADD', inbox, 'MAXLEN', '~', args[2], id, 'd', args[i + 2])
      redis.call('EXPIRE', inbox, args[3])
      delivered = row
    end
  end
  redis.call('HSET', keys[1], 'delivered', string.format('%.0f', delivered))
  return 1
end

-- `allow-oom`: an inbox is bounded, and whoever waits for an answer holds units that others need.
redis.register_function({function_name = 'deliver', callback = deliver, flags = {'allow-oom'}})
