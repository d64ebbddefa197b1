-- The id of a message, from the first octets of its payload, and the number that the octets before the id are.
-- Of messages that are due at the same time, Redis keeps those with the same number together, in the order of ids.
local function id_in(payload)
  local array, at = byte(payload, 1), 2
  if array == 220 then
    at = 4
  elseif not array or array < 144 or array > 159 then
    return '', (array or 0) * 4294967296
  end
  local text, size = byte(payload, at), 0
  if text == 217 then
    at = at + 1
    size = byte(payload, at) or 0
  elseif text and text >= 160 and text <= 191 then
    size = text - 160
  end
  local id = sub(payload, at + 1, at + size)
  if at == 3 then return id, ((array * 256 + text) * 256 + size) * 65536 end
  local number = 0
  for i = 1, 5 do number = number * 256 + (i <= at and byte(payload, i) or 0) end
  return id, number
end

-- What is to be canceled: the messages of `organisation` of which `is_wanted(payload)` is true, and then
-- `is_meant(message)`. `needle` is in the payload of each of them.
local function wanted_by(organisation, needle, is_wanted, is_meant)
  local wanted = {needle = needle, canceled = {}, before = {}}
  -- The message in a payload, when it is wanted.
  function wanted.read(payload)
    if not is_wanted(payload) then return end
    local readable, message = pcall(cmsgpack.unpack, payload)
    if readable and type(message) == 'table' and message[2] == organisation and tonumber(message[8])
        and is_meant(message) then
      return message
    end
  end
  -- Whether a payload is one that is wanted, and is no longer where it was. One that a provider may have been given
  -- stays, and is noted in `before`.
  function wanted.take(payload)
    local message = wanted.read(payload)
    if not message then return false end
    local is_new = (message[14] or 0) == 0
    local into = is_new and wanted.canceled or wanted.before
    into[#into + 1] = is_new and message or message[1]
    return is_new
  end
  return wanted
end

-- The messages of `organisation` whose ids are from `first` to `last`.
local function wanted_of(organisation, first, last)
  local shared = 0
  while shared < #first and byte(first, shared + 1) == byte(last, shared + 1) do
    shared = shared + 1
  end
  local function is_between(payload)
    local id = id_in(payload)
    return id >= first and id <= last
  end
  local wanted = wanted_by(organisation, sub(first, 1, shared), is_between, function() return true end)
  wanted.first, wanted.last = first, last
  return wanted
end

-- The messages of a campaign of `organisation`: their reference is its name, or begins with it and a mark between words.
local function wanted_in(organisation, campaign)
  return wanted_by(organisation, campaign, function(payload)
    return string.find(payload, campaign, 1, true)
  end, function(message)
    local reference = type(message[12]) == 'string' and message[12] or ''
    return reference == campaign
      or sub(reference, 1, #campaign) == campaign and string.find(reference, '^[-_/:. ]', #campaign + 1) ~= nil
  end)
end

-- The place of the first member from `low` on and before `high` that is not before this id.
local function due_place(due, low, high, number, id)
  while low < high do
    local middle = floor((low + high) / 2)
    local found, found_number = id_in(call('ZRANGE', due, middle, middle)[1])
    if found_number < number or found_number == number and found < id then low = middle + 1 else high = middle end
  end
  return low
end

-- Cancel messages that are due at `at_us`. They are found by halves, however many others are due then.
local function cancel_due(due, at_us, wanted)
  local low = call('ZCOUNT', due, '-inf', '(' .. at_us)
  local high, gone = low + call('ZCOUNT', due, at_us, at_us), {}
  while low < high do
    local _, number = id_in(call('ZRANGE', due, low, low)[1])
    local _, last_number = id_in(call('ZRANGE', due, high - 1, high - 1)[1])
    local at, over, count = due_place(due, low, high, number, wanted.first), false, 2
    while at < high and not over do
      local page = call('ZRANGE', due, at, min(at + count, high) - 1)
      count = min(2 * count, 100)
      for _, payload in ipairs(page) do
        local id, own = id_in(payload)
        over = over or own ~= number or id > wanted.last
        if not over and wanted.take(payload) then gone[#gone + 1] = payload end
      end
      at = at + #page
    end
    if number == last_number then break end
    low = max(low + 1, due_place(due, low, high, number + 1, ''))
  end
  call_with('ZREM', due, gone)
end

-- Cancel messages of the due set that are at these places in it.
local function cancel_due_at(due, place, places, wanted)
  local gone = {}
  for _, payload in ipairs(call('ZRANGE', due, place, place + places - 1)) do
    if wanted.take(payload) then gone[#gone + 1] = payload end
  end
  call_with('ZREM', due, gone)
end

-- Cancel messages among the last `count` of the due set that are before a place in it: that of (`at_us`, `number`, `id`),
-- as `id_in` gives the last two; id '': before all that is due at `at_us`. Returns the place of the first that was looked
-- at, before which to go on; empty when there is nothing before that.
local function cancel_due_before(due, at_us, number, id, count, wanted)
  local high = call('ZCOUNT', due, '-inf', '(' .. at_us)
  if id ~= '' then
    high = due_place(due, high, high + call('ZCOUNT', due, at_us, at_us), tonumber(number), id)
  end
  if high == 0 then return {} end
  local from, gone = max(0, high - count), {}
  local page, place = call('ZRANGE', due, from, high - 1), {}
  for i = 1, from > 0 and #page or 0 do
    -- What is no message may have anything there.
    local first, first_number = id_in(page[i])
    if #first <= 36 and string.find(first, '^[%w-]+$') then
      place = {call('ZSCORE', due, page[i]), format('%.0f', first_number), first}
      break
    end
  end
  if from > 0 and #place == 0 then place = {call('ZSCORE', due, page[1]), '0', ''} end
  for _, payload in ipairs(page) do
    if wanted.take(payload) then gone[#gone + 1] = payload end
  end
  call_with('ZREM', due, gone)
  return place
end
