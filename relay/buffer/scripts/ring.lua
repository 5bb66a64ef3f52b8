#!lua flags=allow-oom
-- The ticker's look at one lane: rings it where something is due and nobody is there to take it.
--
-- KEYS  1 lane, 2 destination, 3… queues
-- ARGV  1 how long a bell counts as heard (ms), 2 linger (ms)
-- Returns  1 rung: ask for a drain; 0 there is no need
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local state = redis.call("HMGET", KEYS[1], "until", "hold_until", "holder", "in_flight", "hold_ms", "paused")
if tonumber(state[1] or 0) > now then return 0 end
local holder = state[3]
if holder and holder ~= "" and holder ~= "rung" then
  -- A drain that vanished: see begin.lua.
  redis.call("HSET", KEYS[1], "holder", "", "until", 0, "in_flight", 0)
  if tonumber(state[4] or 0) > 0 and tonumber(state[5] or 0) > 0 then
    redis.call("HSET", KEYS[1], "hold_until", now + tonumber(state[5]),
      "why", "the outcome of the last batch is unknown")
    return 0
  end
end
local target = redis.call("HMGET", KEYS[2], "paused", "open_until")
if target[1] or tonumber(target[2] or 0) > now then
  if not state[6] then redis.call("HSET", KEYS[1], "paused", 1) end
  return 0
end
if state[6] then redis.call("HDEL", KEYS[1], "paused") end
if tonumber(state[2] or 0) > now then return 0 end
for q = 3, #KEYS do
  if #redis.call("ZRANGEBYSCORE", KEYS[q], "-inf", now + tonumber(ARGV[2]), "LIMIT", 0, 1) > 0 then
    redis.call("HSET", KEYS[1], "holder", "rung", "until", now + tonumber(ARGV[1]))
    return 1
  end
end
return 0
