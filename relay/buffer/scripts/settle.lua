#!lua flags=allow-oom
-- Says what became of claimed events. With a stale token it changes nothing.
--
-- KEYS  1 lane, 2 events, 3 refs, 4 ledger, 5 bytes, 6 left, 7 dead, 8 deadcount, 9 destination, 10 parked,
--       11 metrics, 12 failed attempts, 13 passed ones, then the keys that the plan names by index
-- ARGV  1 token, 2 plan (msgpack), then a blob for each event in `restored`
--   plan    {done, partly, dead, counts, fences, hold_ms, why, events still in hand, outcome, restored, measured,
--            attempts}
--   done    queue key, source, arrivals: all its records in this lane are settled
--   partly  {queue key, arrival, positions left or "", due in ms}: the rest goes again later
--   dead    {field, letter, arrival}
--   counts  ledger field -> n
--   fences  {fence key, {key, version, …}}
--   hold_ms rest of this lane: newer rows must not go while older ones may still arrive
--   outcome {something got through, something failed, open the breaker at once, rest (ms), refused with none stored}
--   restored {source, arrival}: parked events (see park.lua) that have a dead letter now, which needs their body
--   measured field -> n of what processes measure: counted with what was settled, and so once
--   attempts {failed, passed, how many are kept of each, for how long (ms)}: see relay/buffer/attempts.py
-- Returns  1, or 0 where the token is stale
--
-- Allowed over maxmemory: settling is what makes room.
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if redis.call("HGET", KEYS[1], "holder") ~= ARGV[1] then return 0 end
local plan = cmsgpack.unpack(ARGV[2])
for _, fence in ipairs(plan[5]) do
  redis.call("HSET", KEYS[fence[1]], unpack(fence[2]))
end
for i, event in ipairs(plan[10]) do
  if redis.call("HDEL", KEYS[10], event[2]) == 1 then
    redis.call("HSET", KEYS[2], event[2], ARGV[i + 2])
    redis.call("HINCRBY", KEYS[5], event[1], #ARGV[i + 2])
    redis.call("HINCRBY", KEYS[5], "*", #ARGV[i + 2])
  end
end
for _, letter in ipairs(plan[3]) do
  local before = redis.call("HGET", KEYS[7], letter[1])
  redis.call("HSET", KEYS[7], letter[1], letter[2])
  if before then
    -- Sent again while its letter was still there (a replay), and refused again: the new letter takes its place.
    local old, destination = cjson.decode(before), letter[1]:match("|([^|]*)|")
    local at = "r|" .. old[1] .. "|" .. destination .. "|" .. old[2] .. "|"
    redis.call("HINCRBY", KEYS[4], at .. "dead", -1)
    redis.call("HINCRBY", KEYS[4], at .. "discarded", 1)
  else
    redis.call("HINCRBY", KEYS[8], letter[3], 1)
    -- A dead letter holds its event as a lane does.
    redis.call("HSET", KEYS[3], letter[3], tonumber(redis.call("HGET", KEYS[3], letter[3]) or 1) + 1)
  end
end
for _, group in ipairs(plan[1]) do
  local queue, source, freed = KEYS[group[1]], group[2], 0
  for _, arrival in ipairs(group[3]) do
    if redis.call("ZREM", queue, arrival) == 1 then
      redis.call("HDEL", KEYS[6], arrival)
      local holders = tonumber(redis.call("HGET", KEYS[3], arrival) or 1)
      if holders > 2 then
        redis.call("HSET", KEYS[3], arrival, holders - 1)
      elseif holders == 2 then
        redis.call("HDEL", KEYS[3], arrival)
      else
        freed = freed + redis.call("HSTRLEN", KEYS[2], arrival)
        if redis.call("HDEL", KEYS[2], arrival) == 0 then redis.call("HDEL", KEYS[10], arrival) end
      end
    end
  end
  if freed > 0 then
    redis.call("HINCRBY", KEYS[5], source, -freed)
    redis.call("HINCRBY", KEYS[5], "*", -freed)
  end
end
for _, item in ipairs(plan[2]) do
  redis.call("ZADD", KEYS[item[1]], "XX", now + item[4], item[2])
  if item[3] ~= "" then redis.call("HSET", KEYS[6], item[2], item[3]) end
end
for field, n in pairs(plan[4]) do redis.call("HINCRBY", KEYS[4], field, n) end
for field, n in pairs(plan[11]) do redis.call("HINCRBY", KEYS[11], field, n) end
for i, key in ipairs({KEYS[12], KEYS[13]}) do
  local noted = plan[12][i]
  if #noted > 0 then
    redis.call("LPUSH", key, unpack(noted))
    redis.call("LTRIM", key, 0, plan[12][3] - 1)
    redis.call("PEXPIRE", key, plan[12][4])
  end
end
redis.call("HSET", KEYS[1], "in_flight", plan[8], "why", plan[7])
if plan[6] > 0 then redis.call("HSET", KEYS[1], "hold_until", now + plan[6]) end

-- The breaker: a destination at which nothing got through several times in a row rests as a whole.
local target, passed, failed, opens, rest, refused = KEYS[9], unpack(plan[9])
if passed then
  redis.call("HDEL", target, "failures", "open_until", "since", "why", "refused")
else
  if refused > 0 then redis.call("HINCRBY", target, "refused", refused) end
  if failed then
    local failures = redis.call("HINCRBY", target, "failures", 1)
    redis.call("HSETNX", target, "since", now)
    redis.call("HSET", target, "why", plan[7])
    if rest > 0 and (opens or failures >= 3) then
      redis.call("HSET", target, "open_until", now + rest)
    elseif rest > 0 then
      redis.call("HSET", KEYS[1], "hold_until", now + math.max(plan[6], rest))
    end
  end
end
return 1
