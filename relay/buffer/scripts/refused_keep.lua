-- Keeps one refused request, sealed, where there is room for it.
--
-- KEYS  1 index, 2 bytes, 3 the request's own key
-- ARGV  1 id, 2 source, 3 reason, 4 sealed request, 5 lifetime (ms), 6 overhead of one (bytes),
--       7 bytes for all, 8 bytes for the source
-- Returns  1 kept, 0 there is no room
--
-- What is there already is never pushed out: whoever posts forgeries could otherwise empty it.
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local life = tonumber(ARGV[5])
for _, member in ipairs(redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", now - life, "LIMIT", 0, 200)) do
  local source, size = string.match(member, "^[^|]*|([^|]*)|(%d+)|")
  redis.call("ZREM", KEYS[1], member)
  redis.call("HINCRBY", KEYS[2], source, -size)
  redis.call("HINCRBY", KEYS[2], "*", -size)
end
local size = #ARGV[4] + tonumber(ARGV[6])
local all = tonumber(redis.call("HGET", KEYS[2], "*") or 0)
local own = tonumber(redis.call("HGET", KEYS[2], ARGV[2]) or 0)
if all + size > tonumber(ARGV[7]) or own + size > tonumber(ARGV[8]) then return 0 end
local member = ARGV[1] .. "|" .. ARGV[2] .. "|" .. string.format("%d", size) .. "|" .. ARGV[3]
redis.call("SET", KEYS[3], ARGV[4], "PX", life)
redis.call("ZADD", KEYS[1], now, member)
redis.call("HINCRBY", KEYS[2], ARGV[2], size)
redis.call("HINCRBY", KEYS[2], "*", size)
redis.call("PEXPIRE", KEYS[1], life)
redis.call("PEXPIRE", KEYS[2], life)
return 1
