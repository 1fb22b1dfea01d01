#!/usr/bin/env bash
# Runs internal/packagetest: builds what it compares with and upgrades to, and a
# Debian for its hosts. The packages themselves are built by the test, as
# docs/install.md says.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "make test-packages: it makes namespaces and so needs root" >&2; exit 1; }
build=build/packages
mkdir -p "$build"
internal/packagetest/root.sh "$build/root"

# The same tree in another folder, without git.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
rm -rf "$build/elsewhere"
mkdir -p "$build/elsewhere"
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents --target-directory="$build/elsewhere"
(cd "$build/elsewhere" && scripts/packaging/build.sh ../again)
rm -rf "$build/elsewhere"
VERSION=v99.0.0 scripts/packaging/build.sh "$build/later"

go test -c -o "$build/test" ./internal/packagetest
cd internal/packagetest
exec unshare --net --mount "../../$build/test" -test.v -test.timeout 20m
