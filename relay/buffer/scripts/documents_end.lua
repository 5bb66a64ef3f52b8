-- Ends an execution, or gives an upload up, and releases its chunks.
--
-- KEYS  1 execution, 2 chunks, 3 bytes, 4 due, 5 uploads, 6 errors
-- ARGV  1 id, 2 source, 3 mode, 4 token, 5 status that it ends in, "" to forget all of it, 6 why, 7 seconds it is kept
--   mode  "holder": who has this token; "free": cancel, at once where no job works on it, else by that job;
--         "upload": where it is still being sent; "any": whatever it is
-- Returns  1; 2 where the job that works on it was told to; 0 where nothing was done
local state = redis.call("HMGET", KEYS[1], "status", "token", "until", "held")
local status, mode = state[1], ARGV[3]
if not status then
  redis.call("ZREM", KEYS[4], ARGV[1])
  redis.call("ZREM", KEYS[5], ARGV[1])
  return 0
end
local open = status == "PENDING" or status == "RUNNING"
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if mode == "holder" and (status ~= "RUNNING" or state[2] ~= ARGV[4]) then return 0 end
if mode == "upload" and status ~= "UPLOADING" then return 0 end
if mode == "free" then
  if not open then return 0 end
  if status == "RUNNING" and tonumber(state[3] or 0) > now then
    redis.call("HSET", KEYS[1], "cancel", "REQUESTED")
    return 2
  end
end
local held = tonumber(state[4] or 0)
if held ~= 0 then
  redis.call("HINCRBY", KEYS[3], ARGV[2], -held)
  redis.call("HINCRBY", KEYS[3], "*", -held)
end
redis.call("UNLINK", KEYS[2])
redis.call("ZREM", KEYS[4], ARGV[1])
redis.call("ZREM", KEYS[5], ARGV[1])
if ARGV[5] == "" then
  redis.call("UNLINK", KEYS[1], KEYS[6])
else
  redis.call("HSET", KEYS[1], "status", ARGV[5], "why", ARGV[6], "held", 0, "token", "", "until", 0,
    "ended_ms", string.format("%.0f", now))
  if ARGV[5] == "CANCELED" then redis.call("HSET", KEYS[1], "cancel", "CANCELED") end
  redis.call("EXPIRE", KEYS[1], ARGV[7])
end
return 1
