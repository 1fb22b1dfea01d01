#!/usr/bin/env bash
# Builds the deb and the rpm of VERSION and COMMIT for GOARCH into the folder
# given. Two builds of one commit give the same bytes.
set -euo pipefail
umask 022
out=$1
work=build/package
export LC_ALL=C TREE=$work/tree DOCUMENTS=$work/documents GOOS=linux CGO_ENABLED=0
ARCH=$(go env GOARCH)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

# What dpkg and rpm sort as we mean it: v1.2.0-rc1 is before v1.2.0, and that
# before what git calls v1.2.0-5-gabcdef0. A commit before the first tag counts by
# its date.
if [[ $VERSION =~ ^v?[0-9]+\.[0-9] ]]; then
  PACKAGE_VERSION=$(sed -E 's/^v//; s/-([0-9]+)-g([0-9a-f]+)/+\1.g\2/; s/-dirty$/+dirty/; s/-/~/g' <<<"$VERSION")
else
  PACKAGE_VERSION=0~$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S).${VERSION/-dirty/+dirty}
fi
export ARCH SOURCE_DATE_EPOCH PACKAGE_VERSION

rm -rf "$work"
mkdir -p "$TREE"/usr/{sbin,bin} "$DOCUMENTS"
flags=(-trimpath -buildvcs=false -tags "$TAGS" -ldflags "-s -w -X main.version=$VERSION -X main.commit=$COMMIT")
go build "${flags[@]}" -o "$TREE/usr/sbin/had" ./cmd/had
go build "${flags[@]}" -o "$TREE/usr/bin/hactl" ./cmd/hactl

# The pages are made by the commands themselves, on this machine whatever GOARCH is.
page() { env -u GOARCH go run -tags "$TAGS manual" -ldflags "-X main.version=$VERSION" "./cmd/$1" "$DOCUMENTS" "${@:2}"; }
page had docs/files.md
page hactl
for p in "$DOCUMENTS"/man/*; do
  mkdir -p "$TREE/usr/share/man/man${p##*.}"
  gzip -9n <"$p" >"$TREE/usr/share/man/man${p##*.}/${p##*/}.gz"
done
for name in had hactl; do
  install -Dm644 "$DOCUMENTS/completions/$name.bash" "$TREE/usr/share/bash-completion/completions/$name"
  install -Dm644 "$DOCUMENTS/completions/$name.fish" "$TREE/usr/share/fish/vendor_completions.d/$name.fish"
done

units=$TREE/usr/lib/systemd/system
install -Dm644 scripts/packaging/had.service "$units/had.service"
sed 's|/etc/had/had\.hcl|/etc/had/%i.hcl|; s|^Description=.*|& (%i)|' scripts/packaging/had.service >"$units/had@.service"

doc=$TREE/usr/share/doc/had
mkdir -p "$doc"
cp -R docs/. CHANGELOG.md "$doc/"
cp -R scripts/examples "$doc/examples"
{
  cat LICENSE
  # Both programs are static: what they are made of is in them.
  go list -deps -f '{{with .Module}}{{if .Version}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/... | sort -u |
    while read -r module version dir; do
      printf '\n\n%s %s\n\n' "$module" "$version"
      find "$dir" -maxdepth 1 \( -iname 'licen[sc]e*' -o -iname 'copying*' -o -iname 'notice*' \) -type f | sort | xargs -r cat
    done
} >"$doc/copyright"
# A checkout's modes are its user's, and its times.
find "$TREE" -type d -exec chmod 755 {} +
find "$TREE" -type f -perm -u=x -exec chmod 755 {} +
find "$TREE" -type f ! -perm -u=x -exec chmod 644 {} +
find "$TREE" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

mkdir -p "$out"
rm -f "$out"/had[_-]*.{deb,rpm}
for format in deb rpm; do
  env -u GOARCH go tool -modfile=tools/nfpm/go.mod nfpm package --config scripts/packaging/nfpm.yaml --packager "$format" --target "$out/"
done
