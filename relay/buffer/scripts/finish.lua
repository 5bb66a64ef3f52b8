#!lua flags=allow-oom
-- Ends a drain's hold on its lane.
--
-- KEYS  1 lane, 2… queues
-- ARGV  1 token, 2 linger (ms), 3 "idle": only if nothing is due; "yield": in any case
-- Returns  1 released, 0 something is due or the token is stale
--
-- Looking and releasing are one step, so that no record can arrive between them unseen.
if redis.call("HGET", KEYS[1], "holder") ~= ARGV[1] then return 0 end
if ARGV[3] == "idle" then
  local time = redis.call("TIME")
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  for q = 2, #KEYS do
    if #redis.call("ZRANGEBYSCORE", KEYS[q], "-inf", now + tonumber(ARGV[2]), "LIMIT", 0, 1) > 0 then return 0 end
  end
end
redis.call("HSET", KEYS[1], "holder", "", "until", 0, "in_flight", 0)
return 1
