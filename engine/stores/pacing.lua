#!lua name=smspacing
-- The throughput of a provider, handed out ahead of time (Redis 7.0 functions).
--
-- All slots of a provider lie on one timeline, one segment each, `interval` apart. `tail` is
-- where it goes on; time that passes while nobody asks is not made up for (GCRA, the virtual
-- scheduling form: ITU-T I.371, annex A, without burst tolerance). Slots are handed out only
-- a little ahead of now: normal, and whatever express asks for, reaches half a horizon ahead.
-- Express reaches the other half too, as far as its reserve goes, which grows at `share` of
-- the rate on a timeline of its own (`kept`). So while both want all they can get, express is
-- always before the others for its share and competes with them as an equal for the rest;
-- and what one does not ask for the other takes, at once, with nothing to be measured.
--
-- A message goes as a whole, so its slots are asked for as one *bundle*. On a fast timeline
-- the bunching is lost in the tolerance. On a slow one (`most` > 0) it is not, and what was
-- handed out in the last `span` is written down: a bundle comes no sooner than every span
-- holds `most` segments at most with it, and a bundle larger than that has its span for
-- itself. Time lost to such a gap is made up for as long as it has not passed.
--
-- State: one MessagePack array {seen, tail, kept, moment 1, segments 1, moment 2, ...}, all
-- times in microseconds of the clock of Redis, which alone decides.
--
-- Redis emptied: the timeline begins a horizon from now. Nobody was given a slot beyond, so no
-- slot is used twice; only what a slow timeline had written down is forgotten.
-- Redis went back to what it had written to disk, or a replica that was behind took over: what
-- was handed out in that time may be handed out again, at most a horizon of it.
-- Clock set back: all times move with it. Set forward: at most a horizon is used twice.
-- Sent again after a lost answer: more slots; those unheard of are lost.

local FIRST = 4
-- A provider unheard of for so long is forgotten, milliseconds.
local FORGET_MS = 604800000

-- What stands at `now`.
local function state_at(blob, now, horizon)
  if not blob then return {now, now + horizon, now} end
  local state = cmsgpack.unpack(blob)
  local back = state[1] - now
  if back > 0 then
    for i = 2, FIRST - 1 do state[i] = state[i] - back end
    for i = FIRST, #state, 2 do state[i] = state[i] - back end
  end
  return state
end

-- Forget what no span can hold any more that begins or ends after now.
local function forget(state, before)
  local gone = FIRST
  while gone < #state and state[gone] <= before do gone = gone + 2 end
  if gone == FIRST then return state end
  local left = {state[1], state[2], state[3]}
  for i = gone, #state do left[#left + 1] = state[i] end
  return left
end

-- From `at` on, when `segments` more leave every span with `most` at most.
local function earliest(state, at, segments, most, span)
  for i = #state - 1, FIRST, -2 do
    segments = segments + state[i + 1]
    if segments > most then return math.max(at, state[i] + span) end
  end
  return at
end

-- Write down up to `bundles` from `first` on, `step` apart, as long as each may be; how many.
local function write_down(state, first, step, bundle, bundles, most, span)
  for n = 0, bundles - 1 do
    local at = first + n * step
    -- A microsecond: times are doubles, and a quarter of one is the last bit.
    if n > 0 and earliest(state, at, bundle, most, span) > at + 1 then return n end
    state[#state + 1] = at
    state[#state + 1] = bundle
  end
  return bundles
end

-- reserve(rate; queue, segments, bundle, interval_us, express share, span_us, most, horizon_us)
-- -> {segments, delay_us}: slots from `delay_us` after now on, each `interval_us` after the one
--    before; or 0, and how long after now to ask again.
-- At most half of what is free goes to one call (or one bundle), so that all who ask get some.
local function reserve(keys, args)
  local express, bundle = args[1] == 'express', tonumber(args[3])
  local bundles = math.max(1, math.floor(tonumber(args[2]) / bundle))
  local interval, share = tonumber(args[4]), tonumber(args[5])
  local span, most, horizon = tonumber(args[6]), tonumber(args[7]), tonumber(args[8])
  local reach, step = horizon / 2, bundle * interval
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  local blob = redis.call('GET', keys[1])
  local state = state_at(blob, now, horizon)
  local tail, kept = math.max(state[2], now), math.max(state[3], now)

  local first, ahead = tail, tail - now
  if most > 0 then
    state = forget(state, now - span)
    if #state >= FIRST then first = math.max(tail, state[#state - 1] + interval) end
    first = earliest(state, first, bundle, most, span)
    -- The gap before a bundle does not keep it from being the next, as long as it is no wider
    -- than the bundle: else single segments would always be before it.
    ahead = math.max(ahead, first - now - (bundle - 1) * interval)
  end

  local open = math.max(0, math.floor((reach - ahead) / step) + 1)
  local again, room = ahead - reach, open
  if express and share > 0 then
    local reserve_open = math.max(0, math.floor((horizon - (kept - now)) * share / step) + 1)
    local further = math.max(0, math.floor((horizon - ahead) / step) + 1) - open
    room = open + math.min(reserve_open, further)
    again = math.min(again, math.max(ahead, kept - now) - horizon)
  end
  if room == 0 then
    if not blob then redis.call('SET', keys[1], cmsgpack.pack(state), 'PX', FORGET_MS) end
    return {0, math.max(1, math.ceil(again))}
  end

  local granted = math.min(bundles, math.ceil(room / 2))
  if most > 0 then granted = write_down(state, first, step, bundle, granted, most, span) end
  state[1], state[2] = now, tail + granted * step
  if granted > open then kept = kept + (granted - open) * step / share end
  state[3] = kept
  redis.call('SET', keys[1], cmsgpack.pack(state), 'PX', FORGET_MS)
  return {granted * bundle, math.max(0, math.ceil(first - now))}
end

redis.register_function('reserve', reserve)
