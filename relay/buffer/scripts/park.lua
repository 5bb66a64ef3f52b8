#!lua flags=allow-oom
-- Parks events that wait for a destination: their bodies go, since the archive has them too. What stays is their
-- arrival number in the lane, by which a drain fetches the body again.
--
-- KEYS  1 events, 2 bytes, 3 parked, 4 quarantine, 5 deadcount, 6 queue of the lane, 7 queue of the archive's lane
-- ARGV  1 source, then arrival numbers
-- Returns  how many bytes were freed
--
-- Only what the archive has settled is parked, and nothing that a person may still have to look at.
local source, freed = ARGV[1], 0
for i = 2, #ARGV do
  local arrival = ARGV[i]
  if redis.call("ZSCORE", KEYS[6], arrival) and not redis.call("ZSCORE", KEYS[7], arrival)
      and not redis.call("ZSCORE", KEYS[4], arrival) and redis.call("HEXISTS", KEYS[5], arrival) == 0 then
    local size = redis.call("HSTRLEN", KEYS[1], arrival)
    if size > 0 then
      redis.call("HDEL", KEYS[1], arrival)
      redis.call("HSET", KEYS[3], arrival, source)
      freed = freed + size
    end
  end
end
if freed > 0 then
  redis.call("HINCRBY", KEYS[2], source, -freed)
  redis.call("HINCRBY", KEYS[2], "*", -freed)
end
return freed
