#!lua flags=no-writes
-- Reads events, the first of those asked for that fit into so many bytes together.
--
-- KEYS  1 events
-- ARGV  1 bytes at most, 2.. their arrival numbers
-- Returns  a blob each, in that order, false where it is gone; the first however large it is
local bodies, size = {}, 0
for i = 2, #ARGV do
  size = size + redis.call("HSTRLEN", KEYS[1], ARGV[i])
  if i > 2 and size > tonumber(ARGV[1]) then break end
  bodies[#bodies + 1] = redis.call("HGET", KEYS[1], ARGV[i])
end
return bodies
