-- GET /tickets, with and without filters.
dofile(os.getenv("BENCH_WRK") .. "/common.lua")

init = seed_random
request = list_request
