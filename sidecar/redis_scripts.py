"""The scripts that Redis runs for `store`: steps that must not come apart, each with what it promises.

A script works on keys that it is given; which keys, and what the arguments mean, is `store`'s business.
"""

RECORD = """
local written = 0
for i = 3, #ARGV, 9 do
  if redis.call('XACK', KEYS[1], ARGV[1], ARGV[i]) == 1 then
    redis.call('HINCRBY', KEYS[3], 'handled', 1)
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'e', ARGV[i], 't', ARGV[i+1], 's', ARGV[i+2],
      'w', ARGV[i+3], 'v', ARGV[i+4], 'k', ARGV[i+5], 'n', ARGV[i+6], 'p', ARGV[i+7],
      'c', ARGV[i+8])
    written = written + 1
  end
end
return written
"""

ACKNOWLEDGE = """
local acknowledged = redis.call('XACK', KEYS[1], unpack(ARGV))
redis.call('HINCRBY', KEYS[2], 'handled', acknowledged)
return acknowledged
"""

# A client that lost the answer sends it again: a state that is there already came with its events.
CHECKPOINT = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if redis.call('GET', KEYS[2]) == ARGV[2] then return 1 end
redis.call('SET', KEYS[2], ARGV[2])
for i = 4, #ARGV do
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[3], '*', 'event', ARGV[i])
end
return 1
"""

KEEP = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] then redis.call('SET', KEYS[2], ARGV[2]) else redis.call('DEL', KEYS[2]) end
return 1
"""

RENEW = """
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) return 1 end
if not holder then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1 end
return 0
"""

KEEP_FROZEN = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], unpack(ARGV, 2))
return 1
"""

# A run that is there already was sent again because the answer was lost: as a second one it would confirm itself.
ADD_FROZEN_RUN = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if not last or last[2][2] ~= ARGV[3] then
  redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[2], '*', 'run', ARGV[3])
end
return 1
"""

# The first value of a field stays, unless it is the one that is given as useless: later ones are compared with it.
KEEP_FIRST = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
if ARGV[4] and redis.call('HGET', KEYS[2], ARGV[2]) == ARGV[4] then redis.call('HDEL', KEYS[2], ARGV[2]) end
redis.call('HSETNX', KEYS[2], ARGV[2], ARGV[3])
return redis.call('HGET', KEYS[2], ARGV[2])
"""

# With the run go the results that no encoder, set or index in use needs any more. A name that begins with a star
# keeps all that ends so.
ADD_CANARY_RUN = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if not last or last[2][2] ~= ARGV[3] then
  redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[2], '*', 'run', ARGV[3])
end
local kept, endings = {}, {}
for i = 4, #ARGV do
  if ARGV[i]:sub(1, 1) == '*' then endings[#endings + 1] = ARGV[i]:sub(2) else kept[ARGV[i]] = true end
end
for _, field in ipairs(redis.call('HKEYS', KEYS[3])) do
  local needed = kept[field]
  for _, ending in ipairs(endings) do needed = needed or field:sub(-#ending) == ending end
  if not needed then redis.call('HDEL', KEYS[3], field) end
end
return 1
"""

RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
