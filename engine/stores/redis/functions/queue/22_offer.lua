-- At `maxmemory` Redis refuses every function that may write, unless it has the flag `allow-oom`.
-- The function that takes in messages has no flag and is refused. All others go on, because they free
-- memory, guard money, or add very little. The reason stands above each.
local function offer(name, step, flag)
  local function callback(keys, args)
    if not call then look_up() end
    return step(keys, args)
  end
  redis.register_function({function_name = name .. VERSION, callback = callback, flags = {flag}})
end

-- Reads only.
offer('cut', cut, 'no-writes')
offer('unread', unread, 'no-writes')
offer('due_in', due_in, 'no-writes')
offer('unread_in', unread_in, 'no-writes')
offer('pending_in', pending_in, 'no-writes')
offer('backlog', backlog, 'no-writes')
offer('backlogs', backlogs, 'no-writes')
-- Notes for a minute at most which messages move, while an audit counts.
offer('recount', recount, 'allow-oom')
-- Writes over times only, and holders that have died are found by it.
offer('overdue', overdue, 'allow-oom')
-- Takes in messages: the one function without a flag. `report` is the same function for a flush
-- without messages. Its requests and returns move units between holders, a few hundred bytes each.
offer('admit', admit)
offer('report', admit, 'allow-oom')
-- Frees memory: every settled message leaves its queue. It adds at most one activity row a message,
-- and one usage entry a call.
offer('settle', settle, 'allow-oom')
offer('settle_unread', settle_unread, 'allow-oom')
-- Frees memory, but for one activity row and one usage entry a call.
offer('drop', drop, 'allow-oom')
offer('cancel', cancel, 'allow-oom')
offer('cancel_campaign', cancel_campaign, 'allow-oom')
-- Move messages from one place to another.
offer('replay', replay, 'allow-oom')
offer('promote', promote, 'allow-oom')
offer('refill', refill_line, 'allow-oom')
offer('recall', recall, 'allow-oom')
offer('sift', sift, 'allow-oom')
-- Moves messages from one place to another, and writes a few bytes for each organisation that has limits.
offer('limit', limit, 'allow-oom')
-- Gives the entries of dead workers to workers that settle them.
offer('take_over', take_over, 'allow-oom')
-- Writes once for each queue and shard. A worker that starts while Redis is full must be able to read.
offer('make_group', make_group, 'allow-oom')
-- Writes one small hash for each process. Without it a replaced process could not drain anything.
offer('register', register, 'allow-oom')
-- Overwrites one number. Without it every holder would be fenced after a while.
offer('beat', beat, 'allow-oom')
-- Guards money: the quota of a dead holder becomes available again, and is never spent twice. Frees
-- the inbox.
offer('fence', fence, 'allow-oom')
-- Rewrites one hash.
offer('tally', tally, 'allow-oom')
-- Guard money, and free the usage stream: they close the books of a lost shard and open it again.
offer('seal', seal, 'allow-oom')
offer('close', close, 'allow-oom')
offer('begin', begin, 'allow-oom')
-- Adds one row for each organisation whose balance has become low.
offer('announce', announce, 'allow-oom')
