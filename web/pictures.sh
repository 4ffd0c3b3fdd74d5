#!/usr/bin/env bash
# `make pictures`: the pictures of the README, from the real page: docs/demo.webp is the demo under a like
# bomb, docs/button.webp the button in its states. They are committed; run this after a change of what one sees.
set -euo pipefail
# shellcheck source=deploy/local/whole.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../deploy/local/whole.sh"

install_packages web pictures
cd "$ROOT/web"
npm_packages
prepare pictures
start_servers
demo_settings
start_services
CHROMIUM=$(command -v chromium)
frames=$STATE/frames
mkdir "$frames"
export CHROMIUM
say 'pictures: taking them in Chromium'
in_group timeout 300 node scripts/pictures.mjs "$LIKE_API_URL" "$frames"
# Each frame is shown for as long as it was to be seen.
mapfile -t arguments <"$frames/arguments"
quietly "$STATE/img2webp.log" 'pictures: docs/demo.webp' \
  img2webp -loop 0 -lossy -q 70 -m 6 "${arguments[@]}" -o "$ROOT/docs/demo.webp"
quietly "$STATE/img2webp.log" 'pictures: docs/button.webp' \
  img2webp -lossy -q 85 -m 6 "$frames/button.png" -o "$ROOT/docs/button.webp"
size=$(cat "$ROOT/docs/demo.webp" "$ROOT/docs/button.webp" | wc -c)
[ "$size" -le 1000000 ] || die "both pictures have $size bytes: at most 1,000,000"
say "pictures: docs/demo.webp and docs/button.webp, $size bytes together"
