-- 80 % reads, 20 % writes: lists 45, gets 35, creates 13, patches 7 of 100.
dofile(os.getenv("BENCH_WRK") .. "/common.lua")

local ids

function init()
  ids = read_ids()
  seed_random()
end

function request()
  local chance = math.random(100)
  if chance <= 45 then return list_request() end
  if chance <= 80 then return read_request(ids) end
  if chance <= 93 then return create_request() end
  return patch_request(ids)
end
