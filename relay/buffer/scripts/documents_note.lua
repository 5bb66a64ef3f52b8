-- Notes how far an execution is; what was passed over is released. Also a sign of life, and how it is given back.
--
-- KEYS  1 execution, 2 chunks, 3 bytes, 4 due, 5 errors
-- ARGV  1 id, 2 source, 3 token, 4 lease (ms; 0: given back), 5 ms until the ticker looks after it,
--       6 commands that were taken, 7 that were not, 8 offset, 9 line, 10 pieces, 11 header, 12 first chunk still
--       needed, 13 first that may be there, 14 some of the error file or "", 15 lines in it, 16 seconds it is kept,
--       17 1 where its last job died
-- Returns  1; 2 where it is to be canceled; 0 where it is another's, with nothing done
local state = redis.call("HMGET", KEYS[1], "status", "token", "cancel")
if state[1] ~= "RUNNING" or state[2] ~= ARGV[3] then return 0 end
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call("HSET", KEYS[1], "at", ARGV[8], "line", ARGV[9], "pieces", ARGV[10], "header", ARGV[11],
  "until", string.format("%.0f", tonumber(ARGV[4]) > 0 and now + tonumber(ARGV[4]) or 0))
if ARGV[17] ~= "1" then redis.call("HSET", KEYS[1], "tries", 0) end
redis.call("HINCRBY", KEYS[1], "completed", ARGV[6])
redis.call("HINCRBY", KEYS[1], "erroneous", ARGV[7])
if ARGV[14] ~= "" then
  redis.call("RPUSH", KEYS[5], ARGV[14])
  redis.call("EXPIRE", KEYS[5], ARGV[16])
  redis.call("HINCRBY", KEYS[1], "error_lines", ARGV[15])
  redis.call("HINCRBY", KEYS[1], "error_bytes", #ARGV[14])
end
local freed = 0
for chunk = tonumber(ARGV[13]), tonumber(ARGV[12]) - 1 do
  freed = freed + redis.call("HSTRLEN", KEYS[2], chunk)
  redis.call("HDEL", KEYS[2], chunk)
end
if freed > 0 then
  redis.call("HINCRBY", KEYS[1], "held", -freed)
  redis.call("HINCRBY", KEYS[3], ARGV[2], -freed)
  redis.call("HINCRBY", KEYS[3], "*", -freed)
end
redis.call("ZADD", KEYS[4], now + tonumber(ARGV[5]), ARGV[1])
return state[3] and state[3] ~= "" and 2 or 1
