#!lua flags=allow-oom
-- Frees a lane whose drain is known to be dead, at once rather than when its lease ends.
--
-- KEYS  1 lane
-- ARGV  1 token
-- Returns  1 freed, 0 it is not the token's
if redis.call("HGET", KEYS[1], "holder") ~= ARGV[1] then return 0 end
local state = redis.call("HMGET", KEYS[1], "in_flight", "hold_ms")
if tonumber(state[1] or 0) > 0 and tonumber(state[2] or 0) > 0 then
  local time = redis.call("TIME")
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  redis.call("HSET", KEYS[1], "hold_until", now + tonumber(state[2]),
    "why", "the outcome of the last batch is unknown")
end
redis.call("HSET", KEYS[1], "holder", "", "until", 0, "in_flight", 0)
return 1
