#!lua flags=allow-oom
-- Says that a lane's holder lives, while it is busy with a batch.
--
-- KEYS  1 lane
-- ARGV  1 token, 2 lease (ms)
-- Returns  1, or 0 where the token is stale
if redis.call("HGET", KEYS[1], "holder") ~= ARGV[1] then return 0 end
local time = redis.call("TIME")
redis.call("HSET", KEYS[1], "until",
  tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + tonumber(ARGV[2]))
return 1
