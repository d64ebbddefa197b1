#!lua name=smsengine_inbox
-- The answers of the ledger to the holders (Redis 7.0 functions).

-- Larger than the milliseconds of any id that the clock gives.
local FIRST = 17592186044416

-- deliver(head of the usage stream, inbox ...; row of the answer before these, inbox_max, ttl_s,
--         then per answer: its row, index of its inbox from 1, payload)
-- -> 1 when these answers are in their inboxes, 0 when the shard has lost the answer before them
--
-- Rows count up. `delivered` is the row of the last answer that this shard was given. Answers up to
-- that row were delivered before, by this ledger or another, and are passed over. When `delivered` is
-- less than the row before these answers, Redis went back to an older state and has lost answers that
-- holders wait for; then nothing is written. The id of an answer is made from its row and not from the
-- time, so a holder that reads on after the last one it has seen misses none, even when the clock went
-- back too.
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

-- note_books(head of the usage stream; note)
-- Keeps how far the books are. A second call writes the same. Books that are written do not wait.
local function note_books(keys, args)
  redis.call('HSET', keys[1], 'books', args[1])
  redis.call('HDEL', keys[1], 'waits')
  return 1
end

-- Whether no ledger of a later term has noted how far the books are, and any has.
local function is_last(head, term)
  local books = redis.call('HGET', head, 'books')
  local noted = books and string.match(books, '^%S* %S* (%d+)')
  return noted and tonumber(noted) <= tonumber(term)
end

-- The milliseconds of Redis' clock, as text.
local function now_ms()
  local time = redis.call('TIME')
  return string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
end

-- note_lead(head of the usage stream; term) -> 1, or 0 when a ledger of a later term has noted the books
-- The ledger of this term leads and works. `leads` is its term and when it said so last, milliseconds: by its
-- age holders see that no ledger leads.
local function note_lead(keys, args)
  if not is_last(keys[1], args[1]) then return 0 end
  redis.call('HSET', keys[1], 'leads', args[1] .. ' ' .. now_ms())
  return 1
end

-- note_waits(head of the usage stream; term) -> 1, or 0 when a ledger of a later term has noted the books
-- The ledger of this term cannot write the books of the shard. `waits` is when it said so last, milliseconds,
-- and counts for a moment; a ledger that says it no more may be gone. One that cannot reach PostgreSQL does
-- not hear that another leads, so the term decides.
local function note_waits(keys, args)
  if not is_last(keys[1], args[1]) then return 0 end
  redis.call('HSET', keys[1], 'waits', now_ms())
  return 1
end

-- note_unclosed(head of the usage stream; term, organisations) -> 1, or 0 when a later ledger has noted the books
-- The accounts of these organisations are locked since the books of the shard were closed, so the ledger of
-- this term cannot write them. Counts for a moment, as `waits` does; "" says that there are none any more.
local function note_unclosed(keys, args)
  if not is_last(keys[1], args[1]) then return 0 end
  if args[2] == '' then
    redis.call('HDEL', keys[1], 'unclosed')
  else
    redis.call('HSET', keys[1], 'unclosed', now_ms() .. ' ' .. args[2])
  end
  return 1
end

-- `allow-oom`: it overwrites one text of bounded length.
redis.register_function({
  function_name = 'note_unclosed' .. VERSION, callback = note_unclosed, flags = {'allow-oom'},
})
-- `allow-oom`: it overwrites one short text, and without it nobody is answered while Redis is full.
redis.register_function({
  function_name = 'note_books' .. VERSION, callback = note_books, flags = {'allow-oom'},
})
-- `allow-oom`: it overwrites one short text.
redis.register_function({
  function_name = 'note_lead' .. VERSION, callback = note_lead, flags = {'allow-oom'},
})
-- `allow-oom`: it overwrites one number.
redis.register_function({
  function_name = 'note_waits' .. VERSION, callback = note_waits, flags = {'allow-oom'},
})
-- `allow-oom`: an inbox is bounded, and a holder that waits for an answer has units that others need.
redis.register_function({function_name = 'deliver' .. VERSION, callback = deliver, flags = {'allow-oom'}})
