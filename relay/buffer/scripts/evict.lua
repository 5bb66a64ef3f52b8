#!lua flags=allow-oom
-- Forgets rows of a fence that were last sent long ago, a step at a time, and raises its floor over them.
--
-- KEYS  1 fence
-- ARGV  1 cursor, 2 fields looked at in a step, 3 arrival number: entries of events before it go
-- Returns  {next cursor, how many went}
--
-- A row without an entry is sent only at the floor or above (worker/fence.py), so what was forgotten cannot go back.
-- Entries that begin with "?" are open, and those of a parent ("*") name the members that a newer set deletes: they
-- stay.
local step = redis.call("HSCAN", KEYS[1], ARGV[1], "COUNT", ARGV[2])
local gone, floor = {}, redis.call("HGET", KEYS[1], "floor") or ""
for i = 1, #step[2], 2 do
  local key, version = step[2][i], step[2][i + 1]:sub(1, 57)
  local first = key:sub(1, 1)
  if key ~= "floor" and first ~= "*" and #version == 57 and version:sub(1, 1) ~= "?"
      and version:sub(42) < ARGV[3] then
    gone[#gone + 1] = key
    if version > floor then floor = version end
  end
end
if #gone > 0 then
  redis.call("HSET", KEYS[1], "floor", floor)
  for i = 1, #gone, 1000 do redis.call("HDEL", KEYS[1], unpack(gone, i, math.min(i + 999, #gone))) end
end
return {step[1], #gone}
