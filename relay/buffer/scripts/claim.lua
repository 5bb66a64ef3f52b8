#!lua flags=allow-oom
-- Hands a lane's holder the oldest due events, in turn from each source's queue. They stay where they are until
-- they are settled: the lane's lease is what keeps others away.
--
-- KEYS  1 lane, 2 events, 3 left, 4 destination, 5… queues
-- ARGV  1 token, 2 lease (ms), 3 most events, 4 most bytes, 5 linger (ms), 6 full (events),
--       7 rest after an unknown outcome (ms), 8 how many of each queue are in hand already (msgpack), passed over,
--       9 how many that is in all
-- Returns  {"lost"}, the lease is not ours; {"paused"}, its destination is; {"wait", ms until the oldest is due, or
--          -1 where nothing waits}; {"ok", then queue index, arrival, positions left or "", blob an event}
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if redis.call("HGET", KEYS[1], "holder") ~= ARGV[1] then return {"lost"} end
redis.call("HSET", KEYS[1], "until", now + tonumber(ARGV[2]))
-- A drain may live for long while events keep coming: what is paused meanwhile is handed nothing more.
if redis.call("HEXISTS", KEYS[4], "paused") == 1 then return {"paused"} end
local most, most_bytes, linger, full = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local queues = #KEYS - 4
local skips = cmsgpack.unpack(ARGV[8])
local found, oldest, waiting = {}, nil, 0
local share = math.ceil(most / queues)
local function due_of(q, count)
  return redis.call("ZRANGEBYSCORE", KEYS[q + 4], "-inf", now + linger, "WITHSCORES", "LIMIT", skips[q], count)
end
for q = 1, queues do
  local items = due_of(q, share)
  found[q] = items
  waiting = waiting + #items / 2
  if #items > 0 then
    local due = tonumber(items[2])
    if not oldest or due < oldest then oldest = due end
  elseif skips[q] == 0 then
    local next = redis.call("ZRANGE", KEYS[q + 4], 0, 0, "WITHSCORES")
    if #next > 0 and (not oldest or tonumber(next[2]) < oldest) then oldest = tonumber(next[2]) end
  end
end
if waiting == 0 or (oldest > now and waiting < full) then
  return {"wait", oldest and math.max(0, oldest - now) or -1}
end
-- What some leave of their shares, those that have more may use.
local spare = most - waiting
for q = 1, queues do
  if spare > 0 and #found[q] / 2 == share then
    found[q] = due_of(q, share + spare)
    spare = spare - (#found[q] / 2 - share)
  end
end
local answer, size, n = {"ok"}, 0, 0
local i, more = 1, true
while more and n < most and size < most_bytes do
  more = false
  for q = 1, queues do
    local arrival = found[q][i]
    if arrival and n < most and size < most_bytes then
      more = true
      local blob = redis.call("HGET", KEYS[2], arrival)
      answer[#answer + 1] = q - 1
      answer[#answer + 1] = arrival
      answer[#answer + 1] = redis.call("HGET", KEYS[3], arrival) or ""
      answer[#answer + 1] = blob or ""
      size = size + #(blob or "")
      n = n + 1
    end
  end
  i = i + 2
end
redis.call("HSET", KEYS[1], "in_flight", tonumber(ARGV[9]) + n, "hold_ms", ARGV[7])
return answer
