#!lua flags=allow-oom
-- The ticker's look at one lane: rings it where something is due and nobody is there to take it.
--
-- KEYS  1 lane, 2… queues
-- ARGV  1 how long a bell counts as heard (ms), 2 linger (ms)
-- Returns  1 rung: ask for a drain; 0 there is no need
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local state = redis.call("HMGET", KEYS[1], "until", "hold_until", "paused", "holder", "in_flight", "hold_ms")
if tonumber(state[1] or 0) > now or tonumber(state[2] or 0) > now or state[3] then return 0 end
local holder = state[4]
if holder and holder ~= "" and holder ~= "rung" then
  -- A drain that vanished: see begin.lua.
  redis.call("HSET", KEYS[1], "holder", "", "until", 0, "in_flight", 0)
  if tonumber(state[5] or 0) > 0 and tonumber(state[6] or 0) > 0 then
    redis.call("HSET", KEYS[1], "hold_until", now + tonumber(state[6]),
      "why", "the outcome of the last batch is unknown")
    return 0
  end
end
for q = 2, #KEYS do
  if #redis.call("ZRANGEBYSCORE", KEYS[q], "-inf", now + tonumber(ARGV[2]), "LIMIT", 0, 1) > 0 then
    redis.call("HSET", KEYS[1], "holder", "rung", "until", now + tonumber(ARGV[1]))
    return 1
  end
end
return 0
