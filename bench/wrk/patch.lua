-- PATCH /tickets/{id}, a random one, every change a new version.
dofile(os.getenv("BENCH_WRK") .. "/common.lua")

local ids

function init()
  ids = read_ids()
  seed_random()
end

function request()
  return patch_request(ids)
end
