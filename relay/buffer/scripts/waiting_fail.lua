#!lua flags=allow-oom
-- An event that waited cannot be mapped: it goes into quarantine, with what was fetched.
--
-- KEYS  1 the source's waiting events, 2 events, 3 tries, 4 quarantine, 5 ledger, 6 bytes
-- ARGV  1 source, 2 arrival, 3 blob
-- Returns  1; 0 where it waits no more
local source, arrival = ARGV[1], ARGV[2]
if redis.call("ZREM", KEYS[1], arrival) == 0 then return 0 end
redis.call("HDEL", KEYS[3], arrival)
redis.call("ZADD", KEYS[4], tonumber(arrival), arrival)
redis.call("HINCRBY", KEYS[5], "e|" .. source .. "|waiting", -1)
redis.call("HINCRBY", KEYS[5], "e|" .. source .. "|quarantined", 1)
local grown = #ARGV[3] - redis.call("HSTRLEN", KEYS[2], arrival)
redis.call("HSET", KEYS[2], arrival, ARGV[3])
redis.call("HINCRBY", KEYS[6], source, grown)
redis.call("HINCRBY", KEYS[6], "*", grown)
return 1
