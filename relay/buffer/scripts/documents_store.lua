-- Stores one chunk of a document that is being sent.
--
-- KEYS  1 bytes, 2 execution, 3 chunks, 4 uploads, 5 events, 6 parked, 7 dead
-- ARGV  1 id, 2 source, 3 number of the chunk, 4 chunk, 5 bytes of all, 6 bytes of a source (0: no bound),
--       7 bytes of an event beside its blob, 8 of a dead letter
-- Returns  "ok", "source" or "all" (no room, nothing stored), or "gone" (the upload was given up)
--
-- The limits are those of what may wait as documents, below those of put.lua: rows must have room to come out.
if redis.call("HGET", KEYS[2], "status") ~= "UPLOADING" then return "gone" end
local source, size = ARGV[2], #ARGV[4]
local limit, source_limit = tonumber(ARGV[5]), tonumber(ARGV[6])
local blobs = tonumber(redis.call("HGET", KEYS[1], "*") or 0)
local total = blobs + (redis.call("HLEN", KEYS[5]) + redis.call("HLEN", KEYS[6])) * tonumber(ARGV[7])
  + redis.call("HLEN", KEYS[7]) * tonumber(ARGV[8])
local own = tonumber(redis.call("HGET", KEYS[1], source) or 0)
if blobs > 0 then own = own * total / blobs end
if source_limit > 0 and own + size > source_limit then return "source" end
if limit > 0 and total + size > limit then return "all" end
local time = redis.call("TIME")
redis.call("HSET", KEYS[3], ARGV[3], ARGV[4])
redis.call("HINCRBY", KEYS[1], source, size)
redis.call("HINCRBY", KEYS[1], "*", size)
redis.call("HINCRBY", KEYS[2], "held", size)
redis.call("ZADD", KEYS[4], time[1] .. string.format("%03d", math.floor(tonumber(time[2]) / 1000)), ARGV[1])
return "ok"
