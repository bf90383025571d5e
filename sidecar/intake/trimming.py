"""Everything that must be counted and acknowledged in one step on the server, and with it: what was lost unread.

Redis' own `lag` cannot be used: after trimming by MAXLEN it keeps counting the trimmed entries, after XDEL it is nil.
Our count is an identity instead, taken from one snapshot:

    lost = position of the group - base - handled - pending

`position` is how many entries ever came before the point up to which the group has read, `base` what it was when the
group was made, `handled` the entries that were acknowledged (counted in the same step as each XACK, so that it
survives restarts and every replica sees the same number), `pending` what was handed out and is not acknowledged. What
Redis removed before it was read is in the position and in nothing else. Entries handed out and removed before
somebody could take them over leave `pending` without being handled, and so are lost as well.

Since Redis 7.0 a stream knows how many entries were ever added. Then the number is exact, except in the middle of a
long backlog, where counting to either end would hold the server up: there the last exact number stays until the group
is within `NEAR` entries of an end. Redis 6.2 lacks that counter. There the size of each gap is estimated from the
time that it spans and the rate of the entries that are left, and the state says so.

Keys: the stream, and one hash `<prefix>intake` with `group` (whose numbers these are), `base`, `handled`, `carry`
(lost before the group was made anew), `lost`, and for 6.2 `gap_at`, `gap`. Whoever else acknowledges entries
(`store`, for the replayed ones) adds what XACK answers to `handled` in the same script.
"""

from __future__ import annotations

from dataclasses import dataclass

NEAR = 256
"""Entries that a snapshot counts at most from either end of the stream."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """The stream and our group in one moment.

    `lost` counts since the first group of this deployment; `estimated` says that it is not exact (Redis 6.2), `settled`
    that it is up to date. `behind_seconds` is the age difference of the newest entry and the last one handed out.
    """

    length: int
    pending: int
    lost: int
    estimated: bool
    settled: bool
    behind_seconds: float


_LIBRARY = """
local function map(reply)
  local t = {}
  for i = 1, #reply, 2 do t[reply[i]] = reply[i + 1] end
  return t
end
-- Ids are compared as digit strings: Lua's numbers are doubles and an id has 64 bits.
local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end
local function before(a, b)
  local ams, aseq = a:match('^(%d+)-(%d+)$')
  local bms, bseq = b:match('^(%d+)-(%d+)$')
  if ams ~= bms then return less(ams, bms) end
  return less(aseq, bseq)
end
local function ms(id) return tonumber(id:match('^(%d+)')) end
local function group_of(stream, name)
  for _, g in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local t = map(g)
    if t['name'] == name then return t end
  end
end
"""

ACK = """
local handled, ids = 0, {}
local function send()
  if #ids > 0 then handled = handled + redis.call('XACK', KEYS[1], ARGV[1], unpack(ids)) end
  ids = {}
end
for id in ARGV[2]:gmatch('%S+') do
  ids[#ids + 1] = id
  if #ids == 1000 then send() end
end
send()
if handled > 0 then redis.call('HINCRBY', KEYS[2], 'handled', handled) end
return handled
"""
"""KEYS stream, hash; ARGV group, ids in one string -> how many were pending. Safe to repeat after a lost answer.

One string, because redis-py spends more on packing 500 arguments than Redis on acknowledging 500 entries.
"""

BURY = """
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('HINCRBY', KEYS[2], 'handled', 1)
if ARGV[3] ~= '0' then redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[3], '*', unpack(ARGV, 4)) end
return 1
"""
"""KEYS stream, hash, dead letters; ARGV group, id, maxlen (0 keeps none), fields... -> 1 if it was ours to bury."""

CREATE = f"""
{_LIBRARY}
local whose = KEYS[1] .. ' ' .. ARGV[1]
local again = redis.call('HGET', KEYS[2], 'group') == whose
local start = again and '0' or ARGV[2]
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], start, 'MKSTREAM')
if made.err then
  if made.err:find('BUSYGROUP', 1, true) then return 0 end
  return made
end
local s = map(redis.call('XINFO', 'STREAM', KEYS[1]))
local added = s['entries-added'] or 0
local base = start == '$' and added or added - s['length']
local old = redis.call('HMGET', KEYS[2], 'carry', 'lost')
local carry = (tonumber(old[1]) or 0) + (tonumber(old[2]) or 0)
redis.call('HSET', KEYS[2], 'group', whose, 'base', base, 'handled', 0, 'carry', carry, 'lost', 0)
redis.call('HDEL', KEYS[2], 'gap_at', 'gap')
return again and 2 or 1
"""
"""KEYS stream, hash; ARGV group, start ('$' or '0') -> 0 it was there, 1 made, 2 made anew, from the oldest entry
on."""

SNAPSHOT = f"""
{_LIBRARY}
local s = map(redis.call('XINFO', 'STREAM', KEYS[1]))
local g = group_of(KEYS[1], ARGV[1])
if not g then return redis.error_reply('NOGROUP no such consumer group') end
local near = tonumber(ARGV[2])
local at, newest, length, pending = g['last-delivered-id'], s['last-generated-id'], s['length'], g['pending']
local first = s['first-entry'] and s['first-entry'][1]
local h = redis.call('HMGET', KEYS[2], 'base', 'handled', 'carry', 'lost', 'gap_at', 'gap')
local base, handled = tonumber(h[1]), tonumber(h[2]) or 0
local carry, lost = tonumber(h[3]) or 0, tonumber(h[4]) or 0
local added = s['entries-added']
local settled = 1
if added then
  local position
  if not first or not before(at, newest) then
    position = added
  elseif before(at, first) then
    position = added - length
  else
    local after = #redis.call('XRANGE', KEYS[1], '(' .. at, '+', 'COUNT', near)
    if after < near then
      position = added - after
    else
      local upto = #redis.call('XREVRANGE', KEYS[1], at, '-', 'COUNT', near)
      if upto < near then position = added - length + upto else settled = 0 end
    end
  end
  if position then
    base = base or position - handled - pending
    local now = position - base - handled - pending
    if now < lost then  -- somebody made the group anew or moved it: what was lost so far stays, the count starts over
      carry, base, now = carry + lost, position - handled - pending, 0
    end
    lost = now
    redis.call('HSET', KEYS[2], 'base', base, 'carry', carry, 'lost', lost)
  end
else
  -- Only entries that are all younger than the last one that we were given can hide a gap.
  if at ~= '0-0' and before(at, newest) and (not first or before(at, first)) then
    local gap = 1
    if first then
      local span = ms(newest) - ms(first)
      local rate = span > 0 and (length - 1) / span or 0
      gap = math.max(0, math.floor(rate * (ms(first) - ms(at)) + 0.5) - 1)
    end
    if h[5] == at then lost = lost - (tonumber(h[6]) or 0) end
    lost = lost + gap
    redis.call('HSET', KEYS[2], 'lost', lost, 'gap_at', at, 'gap', gap)
  end
end
return {{length, pending, carry + lost, added and 0 or 1, settled, newest, at}}
"""
"""KEYS stream, hash; ARGV group, NEAR -> what `state` reads."""

CLAIM = f"""
{_LIBRARY}
local dead, stuck, left = tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local taken, gone = {{}}, 0
for _, reply in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local c = map(reply)
  if left <= 0 then break end
  if c['pending'] > 0 then
    local idle = (c['name'] ~= ARGV[2] and c['idle'] >= dead) and '0' or stuck
    for _, p in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', idle, '-', '+', left, c['name'])) do
      local entry = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, p[1])[1]
      if entry then
        taken[#taken + 1] = {{p[1], p[4], entry[2]}}
      else
        redis.call('XACK', KEYS[1], ARGV[1], p[1])
        gone = gone + 1
      end
      left = left - 1
    end
  end
end
if gone > 0 and not map(redis.call('XINFO', 'STREAM', KEYS[1]))['entries-added'] then
  redis.call('HINCRBY', KEYS[2], 'carry', gone)
end
return {{gone, taken}}
"""
"""KEYS stream, hash; ARGV group, me, ms after which a consumer is dead, ms after which an entry is stuck, count
-> entries that were gone, [id, deliveries before, fields].

Not XAUTOCLAIM: Redis 6.2 answers nil for an entry that was trimmed and does not say which, so it could neither be
counted nor removed; and it goes by the age of the entry alone, which takes waiting entries away from a live but slow
process.
"""

LEAVE = f"""
{_LIBRARY}
local removed = 0
local groups = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if groups.err then return 0 end
for _, reply in ipairs(groups) do
  local c = map(reply)
  if c['pending'] == 0 and (c['name'] == ARGV[2] or (ARGV[2] == '' and c['idle'] >= tonumber(ARGV[3]))) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], c['name'])
    removed = removed + 1
  end
end
return removed
"""
"""KEYS stream; ARGV group, me (or '' for everybody), idle ms -> consumers removed. Only those to whom nothing is owed:
removing a consumer throws its pending entries away."""


def state(reply: list[int | bytes]) -> StreamState:
    """Read the answer of `SNAPSHOT`."""
    length, pending, lost, estimated, settled, newest, at = reply
    times = [int(bytes(item).partition(b"-")[0]) for item in (newest, at) if isinstance(item, bytes)]
    return StreamState(
        length=int(length),
        pending=int(pending),
        lost=int(lost),
        estimated=bool(estimated),
        settled=bool(settled),
        behind_seconds=max(0, times[0] - times[1]) / 1000 if times[1] else 0.0,
    )
