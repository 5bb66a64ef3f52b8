-- Takes a group of deliveries, each whole or not at all.
--
-- KEYS  1 clock, 2 events, 3 refs, 4 ledger, 5 bytes, 6 lanes, 7 schemas, 8 quarantine, 9 deadcount, 10 dead,
--       11 parked, 12 alarms, 13 API keys, 14 when they were used, 15 sources of which something waits to be
--       fetched, then the keys that the plan names by index
-- ARGV  1 plan (msgpack), 2… blobs
--   plan      {limits, marks, linger_ms, ring_ms, schema ids, windows, routes, deliveries}
--   limits    bytes: {of all, of a source, of all but for fragile sources only, of an event beside its blob,
--             of a dead letter}; 0 for no bound
--   marks     {bytes of all, 0 for no look; bytes of one; key indexes of the buckets, first to give up first}
--   windows   name -> {seconds to keep a bucket, key indexes of the buckets, the first for new marks}
--   routes    {queue key, lane key, sources key, lane, source}
--   delivery  {source, events, whether the source is fragile, false, false, guard or false}
--   guard     {id of an API key, what its entry begins with, tables that it must be allowed to write}
--   event     {digest, window, blob index or 0, 1 if quarantined or the key index of the queue in which it waits,
--             routes, ledger fields -> n, type}
-- Returns  {"need", schema id…}, with nothing done: the caller publishes them and asks again; or
--          {"ok", answers, rung lanes, dedup buckets given up}: an answer is {"full", "source" or "all"},
--          {"denied"}, or {"ok", then 0|1 (duplicate) and arrival an event}
--
-- Every check comes before the first write, since Lua does not roll back; an event's dedup mark is its last write.
local plan = cmsgpack.unpack(ARGV[1])
local limit, source_limit, reserved, overhead, letter = unpack(plan[1])
local linger, ring_ms = plan[3], plan[4]
local need = {"need"}
for _, id in ipairs(plan[5]) do
  if redis.call("HEXISTS", KEYS[7], id) == 0 then need[#need + 1] = id end
end
if #need > 1 then return need end
local windows, routes, deliveries = plan[6], plan[7], plan[8]

-- Checks: what is a duplicate, what has no room. What is not in blobs counts too, and for a source by its blobs.
local taken = {}
local bytes, total, scale = {}, 0, 1
if limit > 0 or source_limit > 0 then
  local blobs = tonumber(redis.call("HGET", KEYS[5], "*") or 0)
  total = blobs + (redis.call("HLEN", KEYS[2]) + redis.call("HLEN", KEYS[11])) * overhead
    + redis.call("HLEN", KEYS[10]) * letter
  if blobs > 0 then scale = total / blobs end
end
local time = redis.call("TIME")
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(now_us / 1000)
local function denied(guard)
  local entry = redis.call("HGET", KEYS[13], guard[1])
  if not entry or entry:sub(1, #guard[2]) ~= guard[2] then return true end
  local scope, expires = entry:sub(#guard[2] + 1):match("^([^|]*)|(%d+)|")
  if tonumber(expires) > 0 and tonumber(expires) <= now then return true end
  for _, name in ipairs(scope == "" and {} or guard[3]) do
    if not scope:find("," .. name .. ",", 1, true) then return true end
  end
  return false
end
for d, delivery in ipairs(deliveries) do
  local source, size, marks = delivery[1], 0, {}
  local refused = delivery[6] and denied(delivery[6])
  for e, event in ipairs(refused and {} or delivery[2]) do
    local digest, arrival = event[1], false
    if digest ~= "" then
      arrival = taken[digest] or false
      for _, key in ipairs(windows[event[2]][2]) do
        if arrival then break end
        arrival = redis.call("HGET", KEYS[key], digest)
      end
      if arrival and arrival ~= true and (redis.call("ZSCORE", KEYS[8], arrival)
          or redis.call("HEXISTS", KEYS[9], arrival) == 1) then
        arrival = false -- a resend of what failed runs again
      end
    end
    marks[e] = arrival
    if not arrival and event[3] > 0 then size = size + #ARGV[event[3] + 1] + overhead end
    if not arrival and digest ~= "" then taken[digest] = true end
  end
  bytes[source] = bytes[source] or scale * tonumber(redis.call("HGET", KEYS[5], source) or 0)
  local full = false
  if size > 0 then
    if source_limit > 0 and bytes[source] + size > source_limit then
      full = "source"
    elseif limit > 0 and total + size > (delivery[3] and limit or limit - reserved) then
      full = "all"
    end
  end
  delivery[4], delivery[5] = marks, refused and "denied" or full
  if refused then
    delivery[2] = {}
  elseif full then
    for e, event in ipairs(delivery[2]) do
      if not marks[e] then taken[event[1]] = nil end
    end
  else
    total, bytes[source] = total + size, bytes[source] + size
  end
end

-- Writes.
local before = tonumber(redis.call("GET", KEYS[1]) or 0)
local last, marked = before, false
local counts, grown, touched, answers, given, news = {}, {}, {}, {}, {}, {}
local function count(field, n) counts[field] = (counts[field] or 0) + n end
for d, delivery in ipairs(deliveries) do
  local source, marks = delivery[1], delivery[4]
  if delivery[5] == "denied" then
    answers[d] = {"denied"}
  elseif delivery[5] then
    answers[d] = {"full", delivery[5]}
  else
    local answer = {"ok"}
    if delivery[6] then redis.call("HSET", KEYS[14], delivery[6][1], now) end
    for e, event in ipairs(delivery[2]) do
      local arrival = marks[e]
      if arrival == true then arrival = given[event[1]] end
      if arrival then
        count("e|" .. source .. "|accepted", 1)
        count("e|" .. source .. "|duplicate", 1)
        answer[#answer + 1], answer[#answer + 2] = 1, arrival
        news[#news + 1] = {arrival, source, event[7], "duplicate"}
      else
        last = math.max(last + 1, now_us)
        arrival = string.format("%016.0f", last)
        given[event[1]] = arrival
        if event[3] > 0 then
          local blob = ARGV[event[3] + 1]
          redis.call("HSET", KEYS[2], arrival, blob)
          grown[source] = (grown[source] or 0) + #blob
          local holders = #event[5] + (event[4] > 0 and 1 or 0)
          if holders > 1 then redis.call("HSET", KEYS[3], arrival, holders) end
        end
        if event[4] == 1 then redis.call("ZADD", KEYS[8], last, arrival) end
        if event[4] > 1 then
          redis.call("ZADD", KEYS[event[4]], now, arrival)
          redis.call("SADD", KEYS[15], source)
        end
        for _, r in ipairs(event[5]) do
          redis.call("ZADD", KEYS[routes[r][1]], now + linger, arrival)
          touched[r] = true
        end
        for field, n in pairs(event[6]) do count(field, n) end
        if event[1] ~= "" then
          local window = windows[event[2]]
          local bucket = KEYS[window[2][1]]
          redis.call("HSET", bucket, event[1], arrival)
          marked = true
          if not window[3] then
            redis.call("EXPIRE", bucket, window[1])
            window[3] = true
          end
        end
        answer[#answer + 1], answer[#answer + 2] = 0, arrival
        local state = event[4] == 1 and "quarantined" or event[4] > 1 and "waiting" or #event[5] > 0 and "mapped" or "ignored"
        news[#news + 1] = {arrival, source, event[7], state}
      end
    end
    answers[d] = answer
  end
end
if last > before then redis.call("SET", KEYS[1], string.format("%.0f", last)) end
for field, n in pairs(counts) do redis.call("HINCRBY", KEYS[4], field, n) end
for source, n in pairs(grown) do
  redis.call("HINCRBY", KEYS[5], source, n)
  redis.call("HINCRBY", KEYS[5], "*", n)
end

-- For whoever watches; nothing is kept of it.
if #news > 0 then redis.call("PUBLISH", "rh:tail", cmsgpack.pack(news)) end

-- Marks that outgrow their budget are given up by the bucket: what is sent again from then is taken again, and
-- versions make that harmless.
local given_up = {}
local marks_limit, mark, buckets = unpack(plan[2])
if marks_limit > 0 and marked then
  local sizes, held = {}, 0
  for b, key in ipairs(buckets) do
    sizes[b] = redis.call("HLEN", KEYS[key]) * mark
    held = held + sizes[b]
  end
  for b, key in ipairs(buckets) do
    if held <= marks_limit then break end
    if sizes[b] > 0 then
      redis.call("UNLINK", KEYS[key])
      redis.call("HSET", KEYS[12], "dedup", string.format("%.0f|%s", now, KEYS[key]))
      held = held - sizes[b]
      given_up[#given_up + 1] = KEYS[key]
    end
  end
end

-- Bells: a lane without a live holder is rung once, by whoever wrote into it.
local rung = {}
for r in pairs(touched) do
  local route = routes[r]
  redis.call("SADD", KEYS[route[3]], route[5])
  local state = redis.call("HMGET", KEYS[route[2]], "until", "hold_until", "paused", "holder")
  redis.call("SADD", KEYS[6], route[4])
  -- A holder that vanished is the ticker's business (ring.lua): it may have left records in flight.
  local free = not state[4] or state[4] == "" or state[4] == "rung"
  if free and tonumber(state[1] or 0) <= now and tonumber(state[2] or 0) <= now and not state[3] then
    redis.call("HSET", KEYS[route[2]], "holder", "rung", "until", now + ring_ms)
    rung[#rung + 1] = route[4]
  end
end
return {"ok", answers, rung, given_up}
