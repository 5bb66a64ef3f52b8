-- Takes an execution, so that one job at a time works on it.
--
-- KEYS  1 execution, 2 due
-- ARGV  1 id, 2 token, 3 lease (ms)
-- Returns  1; 0 where another works on it, or it is over
local state = redis.call("HMGET", KEYS[1], "status", "until", "token")
if state[1] ~= "PENDING" and state[1] ~= "RUNNING" then
  redis.call("ZREM", KEYS[2], ARGV[1])
  return 0
end
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if tonumber(state[2] or 0) > now and state[3] ~= ARGV[2] then return 0 end
local till = string.format("%.0f", now + tonumber(ARGV[3]))
redis.call("HSET", KEYS[1], "status", "RUNNING", "token", ARGV[2], "until", till)
redis.call("HSETNX", KEYS[1], "started_ms", string.format("%.0f", now))
redis.call("HINCRBY", KEYS[1], "tries", 1)
redis.call("ZADD", KEYS[2], till, ARGV[1])
return 1
