#!lua flags=allow-oom
-- Says which versions are about to be sent to a destination that cannot compare them itself.
--
-- KEYS  1 lane, 2 fence
-- ARGV  1 token, then key, entry, key, entry …
-- Returns  1, or 0 where the token is stale: then nothing may be sent
--
-- Written before the request goes out: whatever becomes of it, nothing older is sent after it.
if redis.call("HGET", KEYS[1], "holder") ~= ARGV[1] then return 0 end
for i = 2, #ARGV, 2 do redis.call("HSET", KEYS[2], ARGV[i], ARGV[i + 1]) end
return 1
