-- promote(due, line; now_us, limit, mark, moment, bundle_max)
-- -> {how many came into the line, the weight that waits now}
-- A message comes back into the line as a new one does. One that cannot be read goes to the ready stream,
-- whose reader sets it aside. A bundle is here when a worker of an older version could not read it; of that,
-- the messages that are not settled come back.
local function promote(keys, args)
  local due = call('ZRANGEBYSCORE', keys[1], '-inf', args[1], 'LIMIT', 0, args[2])
  local line = line_of(keys, 2, args[5])
  aim(line, args[3], args[4])
  for _, member in ipairs(due) do
    local messages = {}
    each_open(line.wait, member, function(message) messages[#messages + 1] = message end)
    if select(2, count_of(member)) then
      -- Its entry was taken out of the stream.
      line.bundled, line.changed = line.bundled - #messages + 1, true
      call('HDEL', line.wait, note_in(member))
    end
    for _, payload in ipairs(messages) do
      local organisation, segments
      if not is_open_to_all(line) then organisation, segments = read_payload(payload) end
      if organisation then
        enter(line, organisation, segments, record_of(segments, payload))
      else
        make_ready(line, segments or 0, payload)
      end
    end
  end
  call_with('ZREM', keys[1], due)
  return {#due, finish(line)}
end

-- refill(line; mark, moment, bundle_max, taken) -> the weight that waits behind the ready stream now
-- `taken`: so many messages shall lie ready now, because a worker is about to read them, whatever the mark. Other steps
-- go by the mark: with 0 they leave what waits in lists to those who take it. '': by the mark here, too.
-- A second call fills up what was read since.
local function refill_line(keys, args)
  local line = line_of(keys, 1, args[3])
  aim(line, args[1], args[2], args[4] ~= '' and args[4])
  return finish(line)
end

-- replay(dead, due, activity, moved; entry id, due_at_us, payload, row)
-- -> 1 when this call replayed the dead letter, else 0
-- Puts a dead letter on the due set as `payload`. Only the call that removes it counts, of this function and of
-- `drop`, so a second call does nothing.
local function replay(keys, args)
  if call('XDEL', keys[1], args[1]) == 0 then return 0 end
  note_moved(keys[4], {args[3]})
  call('ZADD', keys[2], args[2], args[3])
  call('XADD', keys[3], '*', 'b', array_of({args[4]}))
  return 1
end

-- drop(dead, activity, usage, head, held, held by organisation; entry id, organisation, units, row)
-- -> 1 when this call dropped the dead letter, else 0
-- Releases the units of a dead letter. As for `replay`, a second call does nothing.
local function drop(keys, args)
  if call('XDEL', keys[1], args[1]) == 0 then return 0 end
  local units = tonumber(args[3])
  call('XADD', keys[2], '*', 'b', array_of({args[4]}))
  hold(keys[6], {args[2]}, {-units})
  local chain = chain_of(keys[3], keys[4])
  append(chain, 'settle', '', '0', cmsgpack.pack({tonumber(args[2]), 0, units}))
  keep(chain)
  call('DECRBY', keys[5], units)
  return 1
end
