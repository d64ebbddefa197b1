#!lua name=smspacing
-- The throughput of a provider, handed out ahead of time (Redis 7.0 functions).
--
-- All slots of a provider are on one timeline, one segment each, `interval` apart. `tail` is the
-- first slot that is free. Slots that pass while nobody asks are gone (GCRA in the virtual
-- scheduling form: ITU-T I.371, annex A, without burst tolerance). Slots are handed out only
-- a little ahead of now. Both queues may reach half a horizon ahead. Express may also reach into
-- the other half, as far as its reserve goes. The reserve grows at `share` of the rate, on a
-- timeline of its own (`kept`). So when both queues want all they can get, express comes first for
-- its share and competes with normal as an equal for the rest. What one queue does not ask for, the
-- other takes at once, and nothing has to be measured.
--
-- A message goes as a whole, so its slots are asked for as one *bundle*. On a fast timeline
-- the tolerance covers the slots of a bundle being used at one time. On a slow one (`most` > 0) it
-- does not. There it is written down what was handed out in the last `span`. A bundle begins when
-- every span holds at most `most` segments with it; a bundle larger than that has its span for
-- itself. Time lost to such a gap is made up for as long as it has not passed.
--
-- State: {seen, tail, kept} as doubles. A slow timeline adds what was written down, as a MessagePack
-- array of runs {first, step, segments of each, count, ...}, oldest first. Times are
-- microseconds by the clock of Redis, and no other clock counts.
--
-- Redis emptied: the timeline begins a horizon from now. Nobody was given a slot beyond that, so no
-- slot is used twice. Only what a slow timeline had written down is forgotten.
-- Redis went back to what it had written to disk, or a replica that was behind took over: the slots
-- handed out in between may be handed out again, at most a horizon of them.
-- Clock set back: all times move with it. Clock set forward: at most a horizon is used twice.
-- Called again after a lost answer: it reserves more slots; those of the lost answer stay unused.

-- The state of a provider that nobody asks for is deleted after so long, milliseconds.
local FORGET_MS = 604800000
-- What was asked for by workers that do not know the clock of Redis well is remembered for so long at least,
-- microseconds: so far from each other two slots may be handed out that are used within one second.
local WIDE_US = 2500000
local HEADER = '>ddd'
local HEADER_SIZE = 24

-- tail and kept at the time `now`, and how far the clock went back since they were written.
local function state_at(blob, now, horizon)
  if not blob then return now + horizon, now, 0 end
  local seen, tail, kept = struct.unpack(HEADER, blob)
  local back = math.max(0, seen - now)
  return math.max(tail - back, now), math.max(kept - back, now), back
end

-- The runs that were written down. Those that are too old to be in a span that ends after now do no
-- harm; they are taken out now and then, not each time.
local function runs_of(blob, back, now, span)
  if not blob or #blob == HEADER_SIZE then return {} end
  local runs, left, before = cmsgpack.unpack(string.sub(blob, HEADER_SIZE + 1)), {}, now - span
  if back > 0 then
    for i = 1, #runs, 4 do runs[i] = runs[i] - back end
  end
  if #runs == 0 or runs[1] >= before - span / 4 then return runs end
  for i = 1, #runs, 4 do
    local first, step, count = runs[i], runs[i + 1], runs[i + 3]
    local gone = math.max(0, math.floor((before - first) / step) + 1)
    if gone < count then
      local n = #left
      left[n + 1], left[n + 2] = first + gone * step, step
      left[n + 3], left[n + 4] = runs[i + 2], count - gone
    end
  end
  return left
end

-- The first time from `at` on at which `segments` more leave every span with at most `most`.
local function earliest(runs, at, segments, most, span)
  for i = #runs - 3, 1, -4 do
    local step, size, count = runs[i + 1], runs[i + 2], runs[i + 3]
    local fit = math.max(0, math.floor((most - segments) / size))
    if fit < count then return math.max(at, runs[i] + (count - 1 - fit) * step + span) end
    segments = segments + size * count
  end
  return at
end

-- Write down up to `bundles` bundles from `first` on, `step` apart, until one may not be there yet;
-- return how many. Times are compared to a microsecond: they are doubles, whose last bit is a quarter
-- of one.
local function write_down(runs, first, step, bundle, bundles, most, span)
  for n = 0, bundles - 1 do
    local at, last = first + n * step, #runs - 3
    if n > 0 and earliest(runs, at, bundle, most, span) > at + 1 then return n end
    if last > 0 and runs[last + 1] == step and runs[last + 2] == bundle
        and math.abs(runs[last] + runs[last + 3] * step - at) <= 1 then
      runs[last + 3] = runs[last + 3] + 1
    else
      runs[last + 4], runs[last + 5], runs[last + 6], runs[last + 7] = at, step, bundle, 1
    end
  end
  return bundles
end

-- The span to go by: the widest that was asked for in the last moments. A slot of a worker that does not know
-- this clock well (`wide`) may be used so much later, among those of workers that do.
-- State: {number of the present time of WIDE_US, the widest span in it, and in the one before} as doubles.
local function widest(key, span, wide, now)
  local blob, period = redis.call('GET', key), math.floor(now / WIDE_US)
  if not blob and not wide then return span end
  local at, present, before = period, 0, 0
  if blob then at, present, before = struct.unpack(HEADER, blob) end
  if period > at then before, present = period == at + 1 and present or 0, 0 end
  -- The clock was set back: what was asked for then counts no more.
  if at > period + 1 then present, before = 0, 0 end
  local known = math.max(present, before)
  if wide and (span > present or period ~= at) then
    blob = struct.pack(HEADER, period, math.max(present, span), before)
    redis.call('SET', key, blob, 'PX', math.ceil(2 * WIDE_US / 1000))
  end
  return math.max(span, known)
end

-- reserve(rate, wide; queue, segments, bundle, interval_us, express share, span_us, most, horizon_us,
--         within, is wide)
-- -> {segments, delay_us, now_us, interval_ns}: so many slots, the first `delay_us` after now, each `interval_ns`
--    after the one before (0: as asked for). When `segments` is 0, `delay_us` says how long after now to ask
--    again. `within`: as many segments may have their slots within a span.
-- One call gets at most half of what is free, or one bundle, so that every worker gets some.
local function reserve(keys, args)
  local express, bundle = args[1] == 'express', tonumber(args[3])
  local bundles = math.max(1, math.floor(tonumber(args[2]) / bundle))
  local interval, share = tonumber(args[4]), tonumber(args[5])
  local span, most, horizon = tonumber(args[6]), tonumber(args[7]), tonumber(args[8])
  local time, asked = redis.call('TIME'), interval
  local now = time[1] * 1000000 + time[2]
  span = widest(keys[2], span, args[10] == '1', now)
  interval = math.max(interval, span / tonumber(args[9]))
  local reach, step = horizon / 2, bundle * interval
  local blob = redis.call('GET', keys[1])
  local tail, kept, back = state_at(blob, now, horizon)
  local private = express and share > 0 and kept <= now + horizon

  local first, ahead, runs = tail, tail - now, nil
  if most > 0 and ahead <= (private and horizon or reach) then
    runs = runs_of(blob, back, now, span)
    local last = #runs - 3
    if last > 0 then
      first = math.max(tail, runs[last] + (runs[last + 3] - 1) * runs[last + 1] + interval)
    end
    first = earliest(runs, first, bundle, most, span)
    -- A bundle may be the next one after a gap that is no wider than the bundle. Otherwise single
    -- segments would always come before it.
    ahead = math.max(ahead, first - now - (bundle - 1) * interval)
  end

  local open = math.max(0, math.floor((reach - ahead) / step) + 1)
  local again, room = ahead - reach, open
  if private then
    local reserve_open = math.floor((horizon - (kept - now)) * share / step) + 1
    local further = math.max(0, math.floor((horizon - ahead) / step) + 1) - open
    room = open + math.min(reserve_open, further)
  end
  if express and share > 0 then again = math.min(again, math.max(ahead, kept - now) - horizon) end
  if room == 0 then
    if not blob then redis.call('SET', keys[1], struct.pack(HEADER, now, tail, kept), 'PX', FORGET_MS) end
    return {0, math.max(1, math.ceil(again)), now, 0}
  end

  local granted = math.min(bundles, math.ceil(room / 2))
  if most > 0 then granted = write_down(runs, first, step, bundle, granted, most, span) end
  if granted > open then kept = kept + (granted - open) * step / share end
  blob = struct.pack(HEADER, now, tail + granted * step, kept)
  if most > 0 then blob = blob .. cmsgpack.pack(runs) end
  redis.call('SET', keys[1], blob, 'PX', FORGET_MS)
  local other = interval > asked and math.ceil(interval * 1000) or 0
  return {granted * bundle, math.max(0, math.ceil(first - now)), now, other}
end

-- `allow-oom`: it rewrites one small value for each provider, and without it nothing would be sent.
redis.register_function({function_name = 'reserve' .. VERSION, callback = reserve, flags = {'allow-oom'}})
