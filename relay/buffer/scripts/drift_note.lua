-- Adds to the accounts of how tables, and types of events, differ from what is declared.
--
-- KEYS  1 drift
-- ARGV  1 bounds (msgpack): {findings of a list, columns, accounts of a source, accounts of all, lifetime (ms)},
--       2… what was seen of one table (msgpack): {source, table, first (ms), last (ms), rows, unknown, misfits, columns}
-- Returns  1
--
-- Holds under `<source>|<table>` msgpack {since (ms), last (ms), rows, unknown, misfits, columns}: three lists of
-- findings, each {name, declared type, found type, rows of it, first (ms), last (ms), rows of the account when it was
-- last found}. What cannot be read begins anew: nothing hangs on it.
local most_findings, most_columns, most_own, most, life = unpack(cmsgpack.unpack(ARGV[1]))
local held = redis.call("TYPE", KEYS[1]).ok
if held ~= "hash" and held ~= "none" then redis.call("DEL", KEYS[1]) end

local function newer(one, other)
  if one[6] ~= other[6] then return one[6] > other[6] end
  return one[1] .. "|" .. one[3] < other[1] .. "|" .. other[3]
end

local function joined(known, more, bound, rows, oldest)
  local found, at = {}, {}
  for _, one in ipairs(known) do
    if one[6] >= oldest then
      found[#found + 1] = one
      at[one[1] .. "|" .. one[2] .. "|" .. one[3]] = one
    end
  end
  for _, one in ipairs(more) do
    local same = at[one[1] .. "|" .. one[2] .. "|" .. one[3]]
    if same then
      same[4] = same[4] + one[4]
      same[5], same[6] = math.min(same[5], one[5]), math.max(same[6], one[6])
      same[7] = rows
    else
      one[7] = rows
      found[#found + 1] = one
    end
  end
  table.sort(found, newer)
  for n = #found, bound + 1, -1 do found[n] = nil end
  return found
end

local function packed(account, seen)
  local rows, last = account[3] + seen[5], math.max(account[2], seen[4])
  return cmsgpack.pack({
    math.min(account[1], seen[3]), last, rows,
    joined(account[4], seen[6], most_findings, rows, last - life),
    joined(account[5], seen[7], most_findings, rows, last - life),
    joined(account[6], seen[8], most_columns, rows, last - life),
  })
end

local function last_of(field)
  local read, account = pcall(cmsgpack.unpack, redis.call("HGET", KEYS[1], field))
  return read and type(account) == "table" and tonumber(account[2]) or 0
end

local function make_room(source)
  local every, own = redis.call("HKEYS", KEYS[1]), {}
  for _, field in ipairs(every) do
    if field:sub(1, #source + 1) == source .. "|" then own[#own + 1] = field end
  end
  local among = #own >= most_own and own or #every >= most and every or {}
  local oldest, at
  for _, field in ipairs(among) do
    local last = last_of(field)
    if not at or last < at then oldest, at = field, last end
  end
  if oldest then redis.call("HDEL", KEYS[1], oldest) end
end

for n = 2, #ARGV do
  local seen = cmsgpack.unpack(ARGV[n])
  local field = seen[1] .. "|" .. seen[2]
  local before = redis.call("HGET", KEYS[1], field)
  if not before then make_room(seen[1]) end
  local done, account = false, nil
  if before then
    done, account = pcall(function() return packed(cmsgpack.unpack(before), seen) end)
  end
  if not done then account = packed({ seen[3], seen[4], 0, {}, {}, {} }, cmsgpack.unpack(ARGV[n])) end
  redis.call("HSET", KEYS[1], field, account)
end
return 1
