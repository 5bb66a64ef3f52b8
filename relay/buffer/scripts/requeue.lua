#!lua flags=allow-oom
-- Sends a kept event through its lanes: out of quarantine, after its letters died, from the archive, or because
-- what it waited for was fetched.
--
-- KEYS  1 events, 2 refs, 3 ledger, 4 bytes, 5 lanes, 6 quarantine, 7 dead, 8 deadcount, then as the plan names
-- ARGV  1 plan (msgpack), 2 blob
--   plan    {source, arrival, routes, ledger fields -> n, dead letters to drop, queues it must not wait in,
--            whether it must be in quarantine, key index of the queue in which it must wait to be fetched or 0}
--   routes  {queue key, lane key, sources key, lane}
--   letter  {field, ledger prefix of the letter (`r|…|`)}
-- Returns  1 queued; 0 it still waits in some lane, or another retry was quicker, so nothing was done
--
-- The blob is replaced by one that is mapped anew, so no lane may still be counting the records of the old one.
local plan = cmsgpack.unpack(ARGV[1])
local source, arrival = plan[1], plan[2]
for _, queue in ipairs(plan[6]) do
  if redis.call("ZSCORE", KEYS[queue], arrival) then return 0 end
end
if plan[7] and not redis.call("ZSCORE", KEYS[6], arrival) then return 0 end
if plan[8] > 0 and not redis.call("ZSCORE", KEYS[plan[8]], arrival) then return 0 end
local there = #plan[5] == 0
for _, letter in ipairs(plan[5]) do
  there = there or redis.call("HEXISTS", KEYS[7], letter[1]) == 1
end
if not there then return 0 end
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local old = redis.call("HSTRLEN", KEYS[1], arrival)
local holders = 0
if old > 0 then holders = tonumber(redis.call("HGET", KEYS[2], arrival) or 1) end
if redis.call("ZREM", KEYS[6], arrival) == 1 then
  holders = holders - 1
  redis.call("HINCRBY", KEYS[3], "e|" .. source .. "|quarantined", -1)
  redis.call("HINCRBY", KEYS[3], "e|" .. source .. "|mapped", 1)
end
if plan[8] > 0 then
  redis.call("ZREM", KEYS[plan[8]], arrival)
  holders = holders - 1
  redis.call("HINCRBY", KEYS[3], "e|" .. source .. "|waiting", -1)
  redis.call("HINCRBY", KEYS[3], "e|" .. source .. "|mapped", 1)
end
for _, letter in ipairs(plan[5]) do
  if redis.call("HDEL", KEYS[7], letter[1]) == 1 then
    holders = holders - 1
    if redis.call("HINCRBY", KEYS[8], arrival, -1) <= 0 then redis.call("HDEL", KEYS[8], arrival) end
    redis.call("HINCRBY", KEYS[3], letter[2] .. "dead", -1)
    redis.call("HINCRBY", KEYS[3], letter[2] .. "discarded", 1)
  end
end
for _, route in ipairs(plan[3]) do
  holders = holders + redis.call("ZADD", KEYS[route[1]], now, arrival)
  redis.call("SADD", KEYS[route[3]], source)
  redis.call("SADD", KEYS[5], route[4])
  redis.call("HSETNX", KEYS[route[2]], "until", 0)
end
for field, n in pairs(plan[4]) do redis.call("HINCRBY", KEYS[3], field, n) end
local grown = -old
if holders > 0 then
  redis.call("HSET", KEYS[1], arrival, ARGV[2])
  grown = #ARGV[2] - old
else
  redis.call("HDEL", KEYS[1], arrival)
end
if holders > 1 then redis.call("HSET", KEYS[2], arrival, holders) else redis.call("HDEL", KEYS[2], arrival) end
redis.call("HINCRBY", KEYS[4], source, grown)
redis.call("HINCRBY", KEYS[4], "*", grown)
return 1
