#!lua flags=allow-oom
-- Takes events that wait for their objects to be fetched, for as long as a lease.
--
-- KEYS  1 the source's waiting events, 2 events, 3 tries
-- ARGV  1 how many at most, 2 lease in ms
-- Returns  ms since 1970, then arrival, tries before this one and blob of each, oldest due first
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local found = {now}
for _, arrival in ipairs(redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", now, "LIMIT", 0, ARGV[1])) do
  redis.call("ZADD", KEYS[1], now + ARGV[2], arrival)
  found[#found + 1] = arrival
  found[#found + 1] = redis.call("HINCRBY", KEYS[3], arrival, 1) - 1
  found[#found + 1] = redis.call("HGET", KEYS[2], arrival) or ""
end
return found
