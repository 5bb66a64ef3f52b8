#!lua flags=allow-oom
-- Takes a lane for one drain: nobody else may claim or settle in it until its lease ends.
--
-- KEYS  1 lane, 2 destination
-- ARGV  1 token, 2 lease (ms)
-- Returns  {1 taken, failures in a row, refused since it last stored}, {2 the same, and its breaker is open: this is
--          the probe}, {0} another drain lives in it, {-1} it rests, or its destination is paused or rests
--
-- Where the last holder vanished with records in flight at a destination that cannot compare versions itself, the
-- lane rests first: a request that was sent may still be applied (`hold_ms`, written by claim.lua).
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local state = redis.call("HMGET", KEYS[1], "holder", "until", "hold_until", "in_flight", "hold_ms")
local holder, lives = state[1], tonumber(state[2] or 0) > now
if holder and holder ~= "rung" and holder ~= "" and holder ~= ARGV[1] then
  if lives then return {0} end
  if tonumber(state[4] or 0) > 0 and tonumber(state[5] or 0) > 0 then
    state[3] = now + tonumber(state[5])
    redis.call("HSET", KEYS[1], "hold_until", state[3], "why", "the outcome of the last batch is unknown")
  end
  redis.call("HSET", KEYS[1], "holder", "", "until", 0, "in_flight", 0)
end
local target = redis.call("HMGET", KEYS[2], "paused", "open_until", "failures", "refused")
local opens = tonumber(target[2] or 0)
if target[1] or opens > now then
  -- Deliveries that come in meanwhile need not ring: the ticker knows when it is over (ring.lua).
  redis.call("HSET", KEYS[1], "holder", "", "until", 0, "paused", 1)
  return {-1}
end
if tonumber(state[3] or 0) > now then
  redis.call("HSET", KEYS[1], "holder", "", "until", 0)
  return {-1}
end
redis.call("HSET", KEYS[1], "holder", ARGV[1], "until", now + tonumber(ARGV[2]))
redis.call("HDEL", KEYS[1], "paused")
local taken = 1
if opens > 0 then
  -- One lane asks for all; the others rest until it knows.
  redis.call("HSET", KEYS[2], "open_until", now + tonumber(ARGV[2]))
  taken = 2
end
return {taken, tonumber(target[3] or 0), tonumber(target[4] or 0)}
