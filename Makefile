# `make` alone lists what there is. Only Go, make and git are needed: linters
# and generators are Go tools, built on first use from the versions pinned in
# tools/*/go.mod.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-print-directory
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS := -X main.version=$(VERSION) -X main.commit=$(COMMIT)

# Without gRPC's trace pages, which had doesn't serve, and so without the
# templates for which the linker keeps every method of everything: 4 MB less for
# the guard to lock.
TAGS := grpcnotrace

BUF  := go tool -modfile=tools/buf/go.mod buf
LINT := go tool -modfile=tools/lint/go.mod golangci-lint

# Packages whose tests change a kernel (addresses, namespaces, mounts) or need
# to be root. Those of ALONE measure time, and so run one after another, with
# nothing beside them. Those of BESIDE wait for disks and fence agents more than
# they work: they run beside the unit packages, which are all others.
BESIDE     := $(addprefix had/,storage internal/fence internal/token internal/reconnect internal/mirror internal/notify internal/cgroup)
ALONE      := $(addprefix had/,vip internal/check internal/gate internal/guard internal/hook internal/journal internal/lab)
PRIVILEGED := $(BESIDE) $(ALONE) had/internal/demo had/internal/nettest

# Passed on to go test: `make test-unit TESTFLAGS='-run TestLease -v'`.
export TESTFLAGS ?=

# Results are never taken from go's cache: the kernel is an input it can't see.
GOTEST := go test -count=1 $(TESTFLAGS)

# Tests that boot virtual machines, or systemd with a package of ours, which no
# other target runs.
APART := had/internal/vmtest had/internal/packagetest

# Packages as go sees them. Those that wait longest come first.
beside     = -p 3 $(BESIDE:%=%/...) $(unit)
unit       = $$(comm -23 <(go list ./... | sort) <(go list $(PRIVILEGED:%=%/...) $(APART) 2>/dev/null | sort))

# as_root WHY: sets SUDO, empty for root; stops with a sentence where neither
# root nor sudo is there.
define as_root
if [ "$$(id -u)" = 0 ]; then SUDO=; \
elif command -v sudo >/dev/null; then SUDO=sudo; echo "make $@: $(1): using sudo"; \
else echo "make $@: $(1), and there is no sudo: run it as root" >&2; exit 1; fi
endef

sudo_make = sudo --preserve-env=HOME,GOCACHE,GOMODCACHE,GOPROXY,TESTFLAGS env "PATH=$$PATH" $(MAKE)

.PHONY: help
help: ## list the targets
	@echo "had: one virtual IP, one owner. Targets:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Where to. Tests have their programs built by this, too: they try what is shipped.
BIN ?= bin

.PHONY: build
build: need-go ## build bin/had and bin/hactl (static, no cgo)
	CGO_ENABLED=0 go build -trimpath -tags '$(TAGS)' -ldflags '$(LDFLAGS)' -o '$(BIN)/' ./cmd/...

export VERSION COMMIT TAGS
DIST ?= dist

.PHONY: packages
packages: need-go ## build the deb and the rpm in dist/ (the same bytes each time; GOARCH=arm64 for another machine's)
	scripts/packaging/build.sh '$(DIST)'

.PHONY: test-packages
test-packages: need-go ## follow docs/install.md on three systemd hosts in namespaces: install, upgrade, purge (root, debootstrap; minutes)
	@scripts/packaging/test.sh

.PHONY: demo
demo: build ## watch a failover: three servers and a client on this machine (root, half a minute)
	@$(call as_root,it makes network namespaces and so needs root); \
	exec $$SUDO bin/had dev --demo

.PHONY: dev
dev: build ## the same cluster left running for you to play with (root)
	@$(call as_root,it makes network namespaces and so needs root); \
	exec $$SUDO bin/had dev

# Of make bench: trials a fault, and which parts and subjects (bench -help lists
# them; empty: all). Only a run of everything replaces docs/benchmarks.md.
N        ?= 20
ONLY     ?=
SUBJECTS ?=
RESUME   ?=
ANEW     ?=

.PHONY: bench
bench: build ## measure failover and its cost beside keepalived (root, about an hour; N=5 ONLY=crash,volumes for less; RESUME=1 goes on, ANEW=idle measures a part of the last run once more)
	@$(call as_root,it makes network namespaces and so needs root); \
	CGO_ENABLED=0 go build -trimpath -o build/bench/bench ./internal/bench/cmd; \
	exec $$SUDO build/bench/bench -docs docs -n '$(N)' -only '$(ONLY)' -subjects '$(SUBJECTS)' $(if $(RESUME),-resume) $(if $(ANEW),-anew '$(ANEW)')

.PHONY: test
test: need-go need-tools ## every test: unit, simulation, real kernel, end to end (root, some minutes)
	@$(call as_root,tests with a real kernel need root); \
	[ -z "$$SUDO" ] || exec $(sudo_make) test; \
	$(GOTEST) $(beside); \
	$(MAKE) sim N=6; \
	$(GOTEST) -p 1 $(ALONE:%=%/...) had/internal/demo had/internal/nettest

# What tests run that isn't everywhere, each with its Debian package.
TOOLS := mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs blkid:util-linux fence_ipmilan:fence-agents \
	ipmitool:ipmitool ipmi_sim:openipmi ssh:openssh-client pg_createcluster:postgresql nginx:nginx-light curl:curl smbd:samba smbclient:smbclient

.PHONY: need-tools
need-tools:
	@PATH=$$PATH:/usr/sbin:/sbin; missing=; \
	for t in $(TOOLS); do command -v "$${t%%:*}" >/dev/null || missing+=" $${t##*:}"; done; \
	[ -z "$$missing" ] || { echo "make: tests run programs that aren't installed: apt-get install --no-install-recommends$$missing" >&2; exit 1; }

.PHONY: test-unit
test-unit: need-go ## the tests that need no privilege (under 20 s)
	@$(GOTEST) $(unit)

.PHONY: sim
sim: need-go ## simulate N=1 virtual hours of faults (FROM=1: the first seed), or replay SEED=17
	@go run ./internal/simtest/sim $(if $(SEED),-seed $(SEED) $(if $(TEST),-test '$(TEST)'),-hours $(or $(N),1) $(if $(FROM),-from $(FROM)))

# What the race detector is spared, for it would take minutes and see nothing new:
# long walks of one goroutine through random states and damage, clusters broken on
# purpose to test their checker, and moves interrupted in further ways.
SPARED := ^TestRandomCommandsKeepTheInvariants$$/seed=([2-9]|1.)|^TestDecideNever$$|^TestBoltSurvivesWhatIsFoundSound$$|^TestDamage$$
SPARED := $(SPARED)|^TestBroken(Clusters|Volumes)AreFoundOut$$|^TestVolumesMoveIsInterrupted(InTheMiddle)?$$/^(both|power|stopped)$$

.PHONY: test-race
test-race: need-go need-tools ## all but the end-to-end tests under the race detector (root; needs a C compiler)
	@command -v "$$(go env CC)" >/dev/null || { echo "make $@: the race detector needs a C compiler: apt-get install gcc" >&2; exit 1; }
	@$(call as_root,tests with a real kernel need root); \
	[ -z "$$SUDO" ] || exec $(sudo_make) test-race; \
	export CGO_ENABLED=1; \
	$(GOTEST) -race -skip '$(SPARED)' $(beside); \
	$(GOTEST) -race -p 1 $(ALONE:%=%/...)

.PHONY: test-vm
test-vm: need-go ## watchdogs, disk reservations and NFS, in virtual machines (qemu and Debian's kernel; under 2 minutes)
	@command -v qemu-system-x86_64 >/dev/null || { echo "make $@: it needs qemu: apt-get install --no-install-recommends qemu-system-x86" >&2; exit 1; }
	@internal/vmtest/kernel.sh build/vm/kernel
	@CGO_ENABLED=0 $(GOTEST) -timeout 30m had/internal/vmtest

# chaos NAME FLAGS: builds the test and runs it itself, so that Ctrl-C is its own
# to handle: it ends the faults, reports and cleans up.
define chaos
@$(call as_root,it makes network namespaces and so needs root); \
mkdir -p build; go test -c -o build/chaos.test ./internal/nettest; \
cd internal/nettest; exec $$SUDO ../../build/chaos.test -test.run '^TestChaos$$' -test.timeout 0 -test.v \
	-chaos.seed $(or $(SEED),0) $(if $(DETECT),-chaos.detect $(DETECT)) -chaos.report ../../build/$(1) $(2)
endef

.PHONY: chaos
chaos: need-go ## random faults on real daemons: make chaos [TIME=60m] [SEED=n] [VOLUMES=1]; report in build/ (root)
	$(call chaos,chaos$(if $(VOLUMES),-volumes),-chaos.time $(or $(TIME),60m) $(if $(VOLUMES),-chaos.volumes))

.PHONY: trials
trials: need-go ## each fault of an owner, N times: make trials [N=50] [FAULT=kill-daemon,…]; report in build/ (root)
	$(call chaos,trials,-chaos.fault $(or $(FAULT),all) -chaos.n $(or $(N),50))

.PHONY: steps
steps: need-go need-tools ## end owners of volumes at each step of a move, in every way: make steps [N=5] (root)
	@$(call as_root,it makes network namespaces and so needs root); \
	mkdir -p build; go test -c -o build/steps.test ./internal/nettest; \
	cd internal/nettest; exec $$SUDO ../../build/steps.test -test.run '^TestOwnersEndAtEveryStep$$' -test.timeout 0 -test.v -volumes.n $(or $(N),5)

.PHONY: database
database: need-go need-tools ## end owners of a PostgreSQL at random: make database [N=20] [FAULT='cut off'] (root)
	@$(call as_root,it makes network namespaces and so needs root); \
	mkdir -p build; go test -c -o build/database.test ./internal/nettest; \
	cd internal/nettest; exec $$SUDO ../../build/database.test -test.run '^TestPostgreSQLFollowsTheOwner$$' -test.timeout 0 -test.v -database.n $(or $(N),20) $(if $(FAULT),-database.fault '$(FAULT)')

.PHONY: fuzz
fuzz: need-go ## every fuzz target for a time each, one after another: make fuzz TIME=10m
	@grep -rlE --include='*_test.go' --exclude-dir=build '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do \
		for target in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]*' "$$dir"/*_test.go | cut -c6-); do \
			echo "$$dir $$target"; go test -run '^$$' -fuzz "^$$target\$$" -fuzztime '$(or $(TIME),30s)' -fuzzminimizetime 1s $(TESTFLAGS) "$$dir"; \
		done; \
	done

.PHONY: lint
lint: need-go proto-drift ## linters, formatting, go.mod, generated code, old wire formats (the first run builds the linters: minutes)
	$(BUF) lint
	landed=$$(tools/landed.sh commit) && $(BUF) breaking --against "$$landed/src" || [ $$? -eq 3 ] # a shallow clone
	$(BUF) format --diff --exit-code
	go mod tidy -diff
	go vet ./...
	$(LINT) run ./...

.PHONY: fmt
fmt: need-go ## format Go and proto files
	$(LINT) fmt ./...
	$(BUF) format --write

.PHONY: generate
generate: need-go ## make the Go code of proto/ again
	$(BUF) generate

.PHONY: proto-drift
proto-drift: need-go ## fail when the Go code of proto/ isn't what its .proto files give
	@out=$$(mktemp -d); trap 'rm -rf "$$out"' EXIT; \
	$(BUF) generate --output "$$out"; \
	diff -r --brief --exclude='*.proto' proto "$$out/proto" || { echo "make $@: the generated code is not up to date: run make generate" >&2; exit 1; }

.PHONY: landed
landed: need-go ## at a landing: what HEAD has becomes what the next versions are held against
	@level=$$(awk '$$1 == "Known" { print $$4 }' internal/level/level.go); \
	landed=internal/level/testdata/landed.txt; last=$$(awk '$$1 == "commit" { print $$2 }' $$landed); \
	[ "$$level" = "$$(awk '$$1 == "level" { print $$2 }' $$landed)" ] || sed -i "s/^below .*/below $$last/" $$landed; \
	sed -i "s/^commit .*/commit $$(git rev-parse HEAD)/" $$landed; \
	go test -count=1 ./internal/level -run TestWhatIsNewHasALevel -args -update; \
	go test -count=1 ./cluster -run TestLanded -args -landed.write="$$level-$$(git rev-parse --short=7 HEAD)"; \
	git status --short

.PHONY: clean
clean: ## remove what was built here
	rm -rf bin build dist

.PHONY: need-go
need-go:
	@command -v go >/dev/null || { echo "make: there is no go in PATH: install Go $$(awk '$$1 == "go" { print $$2 }' go.mod) or later, https://go.dev/doc/install" >&2; exit 1; }
	@go list -m >/dev/null || { echo "make: this Go is too old (see above): install a newer one, https://go.dev/doc/install, or set GOTOOLCHAIN=auto to let it fetch one" >&2; exit 1; }
