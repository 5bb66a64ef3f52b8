#!lua flags=allow-oom
-- Lets go of one kept refused request.
--
-- KEYS  1 index, 2 bytes, 3 the request's own key
-- ARGV  1 its member of the index, 2 source, 3 size (bytes)
-- Returns  1 gone, 0 it was no longer there
if redis.call("ZREM", KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call("DEL", KEYS[3])
redis.call("HINCRBY", KEYS[2], ARGV[2], -tonumber(ARGV[3]))
redis.call("HINCRBY", KEYS[2], "*", -tonumber(ARGV[3]))
return 1
