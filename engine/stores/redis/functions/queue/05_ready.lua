-- Move the numbers on, because this run of Redis has not written to the line yet. Redis may have lost entries that
-- workers have in hand, and its clock may be behind: without this another message could have the id of such an entry,
-- and would be settled with it. Written at once: should the step fail, its numbers are not given again.
-- The run is in the hash, not in a variable: functions of several versions stand beside each other, and lines of several
-- databases have the same keys.
local function move_on(line)
  line.run = run_id()
  line.number = line.number + jump_of(line.run)
  call('HSET', line.wait, 'number', line.number, 'run', line.run)
end

-- The id of the entry in which the messages of an entry became ready: its own, or that of the one from which they came.
-- Workers go by it where an organisation is paused, so a message that is written again keeps it.
local function ready_id(id, fields)
  return fields[6] and fields[6] ~= '' and fields[6] or id
end

-- Write an entry of one message, or of several: a table of their records, with room for the head before them.
-- `given`: how often its message was given to a worker before; `from`: see `ready_id`. Both or neither. The id ends in
-- the number of its last message. Numbers count up, so the clock may go back; they are not given twice, so Redis may go
-- back as well.
local function add_entry(line, content, count, given, from)
  local function add(ms, number)
    line.number = number
    local id, payload = format('%.0f-%.0f', ms, number), content
    if count > 1 then
      content[1] = BUNDLE_HEAD .. struct_pack('>HI8', count, number)
      payload = concat(content)
    end
    -- Versions that do not know ways read four fields, or six.
    if line.way then return redis.pcall('XADD', line.sms, id, 'm', payload, 'd', 0, 'i', from or '', 'w', line.way) end
    if given then return redis.pcall('XADD', line.sms, id, 'm', payload, 'd', given, 'i', from) end
    return redis.pcall('XADD', line.sms, id, 'm', payload)
  end
  if line.run ~= run_id() then move_on(line) end
  line.now = line.now or now_ms()
  local before = line.number
  local id = add(line.now, before + count)
  if type(id) == 'table' then
    local last = stream_of(line.sms)['last-generated-id']
    if not last then error(id) end
    local ms, number = match(last, '^(%d+)-(%d+)$')
    line.now = max(line.now, tonumber(ms))
    id = add(line.now, max(before, tonumber(number)) + count)
    if type(id) == 'table' then error(id) end
  end
  line.bundled = line.bundled + count - 1
  line.changed = true
end

-- Write the bundle that was begun.
local function close_bundle(line)
  if line.open == 0 then return end
  local records, count = line.records, line.open
  line.records, line.open, line.octets = {''}, 0, 0
  add_entry(line, count == 1 and sub(records[2], 7) or records, count)
end

-- Put `count` messages into the bundle that was begun, or into the next one.
local function bundle(line, records, count)
  if line.open + count > line.bundle or line.octets + #records > BUNDLE_OCTETS then close_bundle(line) end
  line.records[#line.records + 1] = records
  line.open, line.octets = line.open + count, line.octets + #records
  if line.room then line.room = line.room - count end
end

local function make_ready(line, segments, payload)
  bundle(line, record_of(segments, payload), 1)
end

-- Make `count` messages ready, one record behind another.
local function make_all_ready(line, records, count)
  if count <= line.bundle then return bundle(line, records, count) end
  local at = 1
  while at <= #records do
    local behind, some = walk(records, at, line.bundle, math.huge)
    bundle(line, sub(records, at, behind - 1), some)
    at = behind
  end
end

-- Write what has become of the ready stream.
local function keep_ready(line)
  close_bundle(line)
  if line.changed then call('HSET', line.wait, 'bundled', line.bundled, 'number', line.number) end
end
