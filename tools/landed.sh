#!/usr/bin/env bash
# The tree of the latest landed version, or with `below` of the latest whose log has a
# lower level, out of git's history, in build/landed; with `build` its programs, too.
# Prints the folder: src/, bin/had, bin/hactl.
# Usage: landed.sh commit|below [build]
# Exit code 3: this clone's history doesn't go back that far.
set -euo pipefail
cd "$(dirname "$0")/.."
commit=$(awk -v which="$1" '$1 == which { print $2 }' internal/level/testdata/landed.txt)
git cat-file -e "$commit^{commit}" 2>/dev/null || {
  echo "landed.sh: a landed version is commit $commit, which this clone doesn't have: nothing is held against it before you fetch the whole history (git fetch --unshallow)" >&2
  exit 3
}
dir=$PWD/build/landed/$commit
if [ ! -d "$dir/src" ]; then
  mkdir -p "$dir"
  new=$(mktemp -d "$dir/.src-XXXXXX")
  trap 'rm -rf "$new"' EXIT
  git archive "$commit" | tar -x -C "$new"
  mv -T "$new" "$dir/src" 2>/dev/null || [ -d "$dir/src" ] # another was faster
fi
if [ "${2:-}" = build ] && [ ! -x "$dir/bin/hactl" ]; then
  (cd "$dir/src" && CGO_ENABLED=0 go build -buildvcs=false -trimpath -tags grpcnotrace \
    -ldflags "-X main.version=landed-${commit:0:7} -X main.commit=$commit" -o "$dir/bin/" ./cmd/had ./cmd/hactl >&2)
fi
echo "$dir"
