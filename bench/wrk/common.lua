-- What the scripts share: prepared requests, ids from a file, and the figures as JSON at the end.
-- Settings come by environment, because wrk's own arguments are readable for everyone:
--   BENCH_TOKEN   bearer token, empty for a service without tokens
--   BENCH_IDS     file with one ticket id a line
--   BENCH_KEYED   1 for an Idempotency-Key of its own on every create
--   BENCH_RUN     a number that makes the titles of this run unique
--   BENCH_OUTPUT  where to write the figures

local token = os.getenv("BENCH_TOKEN") or ""
local run = tonumber(os.getenv("BENCH_RUN") or "0")
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("thread_number", threads)
end

-- Everything of a request up to the end of its headers; `extra` is header lines with CRLF.
function head(method, path, extra)
  local lines = method .. " " .. path .. " HTTP/1.1\r\nHost: " .. wrk.host .. "\r\n"
  if token ~= "" then lines = lines .. "Authorization: Bearer " .. token .. "\r\n" end
  return lines .. (extra or "")
end

function read_ids()
  local ids = {}
  for line in io.lines(os.getenv("BENCH_IDS")) do ids[#ids + 1] = line end
  return ids
end

local counter = 0

-- 16 digits, unique over runs, threads and requests; always of the same length, so that
-- Content-Length is a constant.
function unique()
  counter = counter + 1
  return string.format("%05d%02d%09d", run % 100000, thread_number, counter)
end

function seed_random()
  math.randomseed(run * 64 + thread_number)
end

local CREATE_BEFORE = '{"title":"Не печатает принтер № '
local CREATE_AFTER = '","description":"Горит красная лампа, в лотке есть бумага. Перезапуск не помог, '
  .. 'драйвер обновлён вчера. Отдел закупок, третий этаж, кабинет 314; звонить до шести вечера.",'
  .. '"requester":"анна.петрова@example.org","priority":"high"}'
local keyed = os.getenv("BENCH_KEYED") == "1"
local create_head, create_key

function create_request()
  if not create_head then
    create_head = head("POST", "/tickets", "Content-Type: application/json\r\nContent-Length: "
      .. (#CREATE_BEFORE + 16 + #CREATE_AFTER) .. "\r\n")
    create_key = create_head .. 'Idempotency-Key: "bench-8e03978e-40d5-'
    create_head = create_head .. "\r\n" .. CREATE_BEFORE
  end
  local number = unique()
  if keyed then
    return create_key .. number .. '"\r\n\r\n' .. CREATE_BEFORE .. number .. CREATE_AFTER
  end
  return create_head .. number .. CREATE_AFTER
end

local read_before, read_after

function read_request(ids)
  if not read_before then
    read_before = "GET /tickets/"
    read_after = string.sub(head("GET", "/", "\r\n"), 6)
  end
  return read_before .. ids[math.random(#ids)] .. read_after
end

local lists

function list_request()
  if not lists then
    lists = {}
    local queries = {
      "", "?status=new", "?priority=urgent", "?status=in_progress&priority=high", "?limit=20",
      "?assignee=ivan.sidorov%40example.org", "?status=resolved&limit=20", "?priority=low",
    }
    for index, query in ipairs(queries) do lists[index] = head("GET", "/tickets" .. query, "\r\n") end
  end
  return lists[math.random(#lists)]
end

local PATCH_BEFORE = '{"priority":"normal","description":"Мастер придёт завтра, заявка '
local PATCH_AFTER = '"}'
local patch_headers

function patch_request(ids)
  if not patch_headers then
    patch_headers = string.sub(head("PATCH", "/",
      "Content-Type: application/merge-patch+json\r\nIf-Match: *\r\nContent-Length: "
      .. (#PATCH_BEFORE + 16 + #PATCH_AFTER) .. "\r\n\r\n"), 8) .. PATCH_BEFORE
  end
  return "PATCH /tickets/" .. ids[math.random(#ids)] .. patch_headers .. unique() .. PATCH_AFTER
end

function done(summary, latency, requests)
  local errors = summary.errors
  local output = io.open(os.getenv("BENCH_OUTPUT"), "w")
  output:write(string.format(
    '{"requests":%d,"microseconds":%d,"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d,'
    .. '"p50":%.1f,"p90":%.1f,"p99":%.1f,"p999":%.1f,"maximum":%.1f}',
    summary.requests, summary.duration, errors.connect, errors.read, errors.write, errors.status,
    errors.timeout, latency:percentile(50), latency:percentile(90), latency:percentile(99),
    latency:percentile(99.9), latency.max))
  output:close()
end
