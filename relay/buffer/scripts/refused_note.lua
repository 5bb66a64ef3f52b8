-- Adds to the account of a source's refused deliveries.
--
-- KEYS  1 refusals
-- ARGV  1 source, 2 how many more, 3 reason, 4 kind, 5 hypothesis ("": nothing was looked at), 6 findings kept,
--       7 lifetime (ms)
-- Returns  1
--
-- Holds msgpack {refused, first (ms), last (ms), findings}; a finding is {reason, kind, hypothesis, times, last (ms)},
-- the newest first. One of the same reason and kind takes the place of the last such, since sentences hold numbers
-- and names that a caller may choose: rubbish must not push out what is worth knowing. What is older than the lifetime is forgotten.
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local life = tonumber(ARGV[7])
local held = redis.call("HGET", KEYS[1], ARGV[1])
local account = held and cmsgpack.unpack(held)
if not account or account[3] < now - life then account = { 0, now, now, {} } end
account[1], account[3] = account[1] + tonumber(ARGV[2]), now
local kept, times = {}, 1
for _, finding in ipairs(account[4]) do
  if ARGV[5] ~= "" and finding[1] == ARGV[3] and finding[2] == ARGV[4] then
    times = finding[4] + 1
  elseif finding[5] >= now - life then
    kept[#kept + 1] = finding
  end
end
if ARGV[5] ~= "" then
  table.insert(kept, 1, { ARGV[3], ARGV[4], ARGV[5], times, now })
  kept[tonumber(ARGV[6]) + 1] = nil
end
account[4] = kept
redis.call("HSET", KEYS[1], ARGV[1], cmsgpack.pack(account))
redis.call("PEXPIRE", KEYS[1], life)
return 1
