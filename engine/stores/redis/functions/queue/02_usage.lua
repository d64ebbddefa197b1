-- The usage stream is a chain. An entry holds the link of the entry before it (`p`). Its own link
-- is the digest of that link, of its id and of its other fields. So two streams with the same link
-- have the same history, even when Redis lost entries and was given others under the same ids.
-- A hash beside the stream, `head`, says what is known of its end:
--   link       the link of the last entry; '' before the first one, the generation after a close
--   run        the run of Redis in which a ledger found the shard whole
--   since      the last entry before the first one that an unknown run of Redis wrote
--   from       in a sealed shard: the first entries of the stream that the books have not applied
--   delivered  see inbox.lua
--   books      how far the books are, as the ledger noted it: generation, position, term, and earlier
--              generations with commas; see `note` in usage.py. Only the ledger reads it.
--   waits      see `note_waits` in inbox.lua
local function chain_of(usage, head_key)
  local head = call('HMGET', head_key, 'link', 'run', 'since')
  return {
    usage = usage,
    head = head_key,
    link = head[1] or '',
    unseen = head[2] and head[2] ~= run_id(),
    since = head[3],
  }
end

-- Append an entry. `epoch` is text, because Lua writes large numbers as 1.7e+15. In a run of Redis
-- that no ledger has looked at, the first call keeps where the stream ended before it (`since`).
local function append(chain, kind, holder, epoch, data)
  if chain.unseen and not chain.since then
    chain.since = stream_of(chain.usage)['last-generated-id'] or '0-0'
    call('HSET', chain.head, 'since', chain.since)
  end
  local id = call(
    'XADD', chain.usage, '*', 'k', kind, 'h', holder, 'e', epoch, 'd', data, 'p', chain.link)
  chain.link = redis.sha1hex(concat({chain.link, id, kind, holder, epoch, data}, '\n'))
end

-- Write the link of the last entry into the head. Called after the last `append` of a step.
local function keep(chain)
  call('HSET', chain.head, 'link', chain.link)
end

-- Call `command` on `key` with all of `arguments`, in portions, because `unpack` puts them all on Lua's stack.
-- Returns the sum of the replies.
local function call_with(command, key, arguments)
  local sum = 0
  for first = 1, #arguments, 500 do
    sum = sum + call(command, key, unpack(arguments, first, min(first + 499, #arguments)))
  end
  return sum
end

-- The values of these fields of a hash, read in portions as well.
local function values_of(key, names)
  if #names == 0 then return names end
  if #names <= 500 then return call('HMGET', key, unpack(names)) end
  local found = {}
  for first = 1, #names, 500 do
    local some = call('HMGET', key, unpack(names, first, min(first + 499, #names)))
    for i = 1, min(500, #names - first + 1) do found[first + i - 1] = some[i] end
  end
  return found
end

-- Add units to what the messages of organisations hold, in the hash `by`: to each of `organisations` those in the same
-- place of `units`. The callers change the sum of the shard, `held`, in the same step. An organisation that holds
-- nothing has no field.
local function hold(by, organisations, units)
  local count = #organisations
  if count == 1 then
    if call('HINCRBY', by, organisations[1], units[1]) == 0 then call('HDEL', by, organisations[1]) end
    return
  end
  local held, fields, gone, n = values_of(by, organisations), {}, {}, 0
  for i = 1, count do
    local organisation, sum = organisations[i], (held[i] or 0) + units[i]
    if sum == 0 then
      gone[#gone + 1] = organisation
    else
      fields[n + 1], fields[n + 2] = organisation, sum
      n = n + 2
    end
  end
  call_with('HSET', by, fields)
  call_with('HDEL', by, gone)
end

-- The link of the entry at `position`, read from the entry after it, or from the head when there is
-- none after it. When the entry at `position` is lost, this is the link of another entry.
local function link_at(chain, position)
  local behind = call('XRANGE', chain.usage, '(' .. position, '+', 'COUNT', 1)
  if behind[1] then return behind[1][2][10] or '' end
  return chain.link
end
