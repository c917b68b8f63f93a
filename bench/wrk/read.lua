-- GET /tickets/{id}, a random one.
dofile(os.getenv("BENCH_WRK") .. "/common.lua")

local ids

function init()
  ids = read_ids()
  seed_random()
end

function request()
  return read_request(ids)
end
