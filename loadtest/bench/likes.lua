-- For wrk: likes of many users, each thread with users of its own, for as many
-- products as the argument says. With a file of tokens, a line each, theirs.
-- wrk … URL -- PRODUCTS [TOKENS]
local threads = 0
function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

local products
local tokens
function init(args)
  math.randomseed(number)
  products = tonumber(args[1]) or 1000
  if args[2] then
    tokens = {}
    for token in io.lines(args[2]) do
      tokens[#tokens + 1] = "Bearer " .. token
    end
  end
end

function request()
  local path = "/v1/products/p" .. math.random(products) .. "/like"
  if tokens then
    return wrk.format("PUT", path, { ["Authorization"] = tokens[math.random(#tokens)] })
  end
  return wrk.format("PUT", path, { ["X-User-Id"] = "u" .. number .. "-" .. math.random(100000) })
end

-- One line of JSON after wrk's own report, for programs.
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"seconds":%.6f,"refused":%d,"broken":%d,"p50_ms":%.3f,"p99_ms":%.3f}\n',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
