-- Buckets as clients compute them: the first six bytes of SHA-256(salt .. "\0" .. user), modulo 1000. Numbers are
-- doubles, which hold 48 bits exactly.
local bit = require("bit")
local band, bor, bxor, bnot = bit.band, bit.bor, bit.bxor, bit.bnot
local lshift, ror, rshift, tobit = bit.lshift, bit.ror, bit.rshift, bit.tobit

local K = {
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
  0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
  0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
  0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
  0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
  0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
  0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
  0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
}
local W = {}

local function bucket_of(salt, user)
  local message = salt .. "\0" .. user
  local bits = #message * 8
  local padded = message .. "\128" .. string.rep("\0", (55 - #message) % 64) .. "\0\0\0\0" .. string.char(
    band(rshift(bits, 24), 255), band(rshift(bits, 16), 255), band(rshift(bits, 8), 255), band(bits, 255))
  local h1, h2, h3, h4 = 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a
  local h5, h6, h7, h8 = 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19
  for block = 1, #padded, 64 do
    for i = 0, 15 do
      local b1, b2, b3, b4 = string.byte(padded, block + 4 * i, block + 4 * i + 3)
      W[i + 1] = bor(lshift(b1, 24), lshift(b2, 16), lshift(b3, 8), b4)
    end
    for i = 17, 64 do
      local x, y = W[i - 15], W[i - 2]
      local s0 = bxor(ror(x, 7), ror(x, 18), rshift(x, 3))
      local s1 = bxor(ror(y, 17), ror(y, 19), rshift(y, 10))
      W[i] = tobit(W[i - 16] + s0 + W[i - 7] + s1)
    end
    local a, b, c, d, e, f, g, h = h1, h2, h3, h4, h5, h6, h7, h8
    for i = 1, 64 do
      local s1 = bxor(ror(e, 6), ror(e, 11), ror(e, 25))
      local t1 = tobit(h + s1 + bxor(band(e, f), band(bnot(e), g)) + K[i] + W[i])
      local s0 = bxor(ror(a, 2), ror(a, 13), ror(a, 22))
      local t2 = s0 + bxor(band(a, b), band(a, c), band(b, c))
      h, g, f, e, d, c, b, a = g, f, e, tobit(d + t1), c, b, a, tobit(t1 + t2)
    end
    h1, h2, h3, h4 = tobit(h1 + a), tobit(h2 + b), tobit(h3 + c), tobit(h4 + d)
    h5, h6, h7, h8 = tobit(h5 + e), tobit(h6 + f), tobit(h7 + g), tobit(h8 + h)
  end
  return (h1 % 4294967296 * 65536 + rshift(h2, 16)) % 1000
end

local function is_inside(user)
  if Z.of > 0 then
    return Z.cohorts[math.floor(bucket_of("cohort:" .. Z.app, user) * Z.of / 1000)] == true
  end
  return bucket_of(Z.salt, user) < Z.buckets
end

local function cookie(headers, name)
  for pair in (headers:get("cookie") or ""):gmatch("[^;,]+") do
    local key, value = pair:match("^%s*([^=%s]+)=(.-)%s*$")
    if key == name then return value end
  end
end

local function address(handle)
  local info = handle:streamInfo()
  local found = (info.downstreamRemoteAddress or info.downstreamDirectRemoteAddress)(info)
  return found and found:gsub(":%d+$", ""):gsub("^%[(.*)%]$", "%1")
end

local function user_of(handle, headers)
  for _, by in ipairs(Z.identify) do
    local found
    if by[1] == "header" then found = headers:get(by[2])
    elseif by[1] == "cookie" then found = cookie(headers, by[2])
    else found = address(handle) end
    if found and found ~= "" then return found end
  end
end

local function fits(route, method, path)
  if route.methods and not route.methods[method] then return false end
  for _, pattern in ipairs(route.paths) do
    if path:find(pattern) then return true end
  end
  return false
end

local SAFE = { GET = true, HEAD = true, TRACE = true }
math.randomseed(os.time() + (tonumber(tostring({}):match("0x(%x+)") or "0", 16) % 1048576))

function envoy_on_request(handle)
  if os.time() >= Z.expires_at then return end
  local headers = handle:headers()
  local method = headers:get(":method")
  if method == "OPTIONS" then return end
  local path = headers:get(":path"):gsub("[?#].*$", ""):gsub("%%(%x%x)", function(two)
    return string.char(tonumber(two, 16))
  end)
  local route
  for _, one in ipairs(Z.routes) do
    if fits(one, method, path) then route = one break end
  end
  if not route then return end
  if SAFE[method] and not route.reads or not SAFE[method] and not route.writes then return end
  if not Z.everyone then
    local user = user_of(handle, headers)
    if not user or not is_inside(user) then return end
  end
  local seconds = tostring(Z.wait_s + math.random(0, Z.spread_s))
  local told = { [":status"] = "503", ["content-type"] = "application/json", ["retry-after"] = seconds }
  for name, value in pairs(route.headers) do told[name] = value end
  handle:respond(told, route.body .. seconds .. "}\n")
end
