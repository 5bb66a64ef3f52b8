#!lua flags=allow-oom
-- After the server's clock was set back: whatever waits for a moment that is now far ahead waits no longer than it
-- would have.
--
-- KEYS  1 lane, 2 destination, 3… queues
-- ARGV  1 lease (ms), 2 longest rest of a destination (ms), 3 events moved in one call
-- Returns  how many events were moved; where that is as many as asked, there may be more
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function clamp(key, field, most)
  local at = tonumber(redis.call("HGET", key, field) or 0)
  if at > now + most then redis.call("HSET", key, field, now + most) end
end
clamp(KEYS[1], "until", tonumber(ARGV[1]))
-- A rest after an unknown outcome begins anew: how much of it has passed cannot be told.
clamp(KEYS[1], "hold_until", math.max(tonumber(redis.call("HGET", KEYS[1], "hold_ms") or 0), 2000))
clamp(KEYS[2], "open_until", tonumber(ARGV[2]))
clamp(KEYS[2], "since", 0)
local moved, most = 0, tonumber(ARGV[3])
for q = 3, #KEYS do
  local late = redis.call("ZRANGEBYSCORE", KEYS[q], "(" .. now, "+inf", "LIMIT", 0, most - moved)
  for _, arrival in ipairs(late) do redis.call("ZADD", KEYS[q], now, arrival) end
  moved = moved + #late
  if moved >= most then return moved end
end
return moved
