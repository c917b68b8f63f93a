-- POST /tickets, every body its own.
dofile(os.getenv("BENCH_WRK") .. "/common.lua")

request = create_request
