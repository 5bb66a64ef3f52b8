#!lua flags=allow-oom
-- Gives up an event in quarantine, or one dead letter, on a person's word.
--
-- KEYS  1 events, 2 refs, 3 ledger, 4 bytes, 5 quarantine, 6 dead, 7 deadcount
-- ARGV  1 source, 2 arrival, 3 field of the dead letter or "" for the quarantined event,
--       4 ledger prefix of the letter (`r|…|`) or ""
-- Returns  1 discarded, 0 it was no longer there
local source, arrival, field = ARGV[1], ARGV[2], ARGV[3]
if field == "" then
  if redis.call("ZREM", KEYS[5], arrival) == 0 then return 0 end
  redis.call("HINCRBY", KEYS[3], "e|" .. source .. "|quarantined", -1)
  redis.call("HINCRBY", KEYS[3], "e|" .. source .. "|discarded", 1)
else
  if redis.call("HDEL", KEYS[6], field) == 0 then return 0 end
  if redis.call("HINCRBY", KEYS[7], arrival, -1) <= 0 then redis.call("HDEL", KEYS[7], arrival) end
  redis.call("HINCRBY", KEYS[3], ARGV[4] .. "dead", -1)
  redis.call("HINCRBY", KEYS[3], ARGV[4] .. "discarded", 1)
end
local holders = tonumber(redis.call("HGET", KEYS[2], arrival) or 1)
if holders > 2 then
  redis.call("HSET", KEYS[2], arrival, holders - 1)
elseif holders == 2 then
  redis.call("HDEL", KEYS[2], arrival)
else
  local size = redis.call("HSTRLEN", KEYS[1], arrival)
  redis.call("HDEL", KEYS[1], arrival)
  redis.call("HINCRBY", KEYS[4], source, -size)
  redis.call("HINCRBY", KEYS[4], "*", -size)
end
return 1
