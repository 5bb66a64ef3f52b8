-- Makes a document that was sent whole into an execution that waits for a worker.
--
-- KEYS  1 execution, 2 uploads, 3 due, 4 executions of the import, 5 imports of the client, 6 clock
-- ARGV  1 id, 2 number of the import, 3 size (bytes), 4 lines, 5 ms until the ticker looks after it,
--       6 most executions that wait or run
-- Returns  1; 0 where the upload was given up or the import is gone; -1 where too many wait
if redis.call("HGET", KEYS[1], "status") ~= "UPLOADING" or redis.call("HEXISTS", KEYS[5], ARGV[2]) == 0 then
  return 0
end
if redis.call("ZCARD", KEYS[3]) >= tonumber(ARGV[6]) then return -1 end
local time = redis.call("TIME")
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(now_us / 1000)
-- Rows are ordered by this clock and their place, a nanosecond for each byte: what was sent later is always newer.
local base = math.max(now_us, tonumber(redis.call("GET", KEYS[6]) or 0))
redis.call("SET", KEYS[6], string.format("%.0f", base + math.floor(tonumber(ARGV[3]) / 1000) + 2))
redis.call("HSET", KEYS[1], "status", "PENDING", "size", ARGV[3], "lines", ARGV[4], "base_us",
  string.format("%.0f", base), "created_ms", string.format("%.0f", now))
redis.call("ZREM", KEYS[2], ARGV[1])
redis.call("ZADD", KEYS[3], now + tonumber(ARGV[5]), ARGV[1])
redis.call("ZADD", KEYS[4], ARGV[1], ARGV[1])
return 1
