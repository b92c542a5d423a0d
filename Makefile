# Everything a change needs. Go, make and a C compiler (for the race detector) have to be there; e2e wants root and Debian.

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
CACHE    ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/holdfast-build
BIN      := bin/agent
FUZZTIME ?= 10s
LINT     := v2.15.0
NFPM     := v2.45.0
ARCHS    ?= amd64 arm64 armhf

# The time of everything in a package: that of the last commit.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

# The same source, Go version and VERSION give the same bytes, wherever the tree lies.
# gRPC's trace pages bring html/template, with which the linker can leave no method out: 4.5 MB.
GOBUILD := CGO_ENABLED=0 go build -tags grpcnotrace -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=$(VERSION)"

# What has no goroutines and no shared state gains nothing from the race detector.
UNRACED := /(kv|config|internal/arch|internal/wire|test/.*)$$

.DEFAULT_GOAL := build
.PHONY: help build test race lint fuzz bench compat lies e2e packages release reproducible clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "%-14s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## the static binary, bin/agent
	@mkdir -p bin
	$(GOBUILD) -o $(BIN) ./cmd/agent

test: ## all tests; no root, under five minutes on two cores
	go test ./...

race: ## the packages with goroutines, under the race detector
	go test -race -timeout 10m $$(go list ./... | grep -vE '$(UNRACED)')

lint: $(CACHE)/golangci-lint-$(LINT) ## golangci-lint with gosec, and govulncheck, each at its pinned version
	$< run ./...
	cd test/compat && $< run ./...
	.ci/vulns

# Built from its module in a folder of its own, so that its dependencies stay out of go.mod.
$(CACHE)/golangci-lint-$(LINT):
	@mkdir -p $(CACHE)/lint
	GOBIN=$(CACHE)/lint go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT)
	mv $(CACHE)/lint/golangci-lint $@

fuzz: ## each fuzz target for FUZZTIME
	.ci/fuzz $(FUZZTIME)

bench: build ## beside other stores; see test/bench
	cd test/bench && go run . $(BENCHARGS)

# Most rows wait for a disk or for time, so that many fit on two cores.
compat: build ## unchanged etcd clients, with etcd and with the built binary; wants node, npm and etcdctl 3.4
	AGENT=$(CURDIR)/$(BIN) CACHE=$(CACHE) go test -C test/compat -count=1 -parallel 8 -timeout 10m ./...

lies: build ## what others tell devices that is not so, and the built binary does not; wants mosquitto
	AGENT=$(CURDIR)/$(BIN) CACHE=$(CACHE) go test -C test/lies -tags lies -count=1 -timeout 20m -v ./...

# In a process and mount namespace: whatever a test leaves behind ends with it.
e2e: build $(CACHE)/nfpm-$(NFPM) ## the built binary against kills, a full disk and a real systemd; root
	unshare --pid --fork --mount-proc --kill-child env AGENT=$(CURDIR)/$(BIN) CACHE=$(CACHE) NFPM=$(CACHE)/nfpm-$(NFPM) go test -tags e2e -count=1 -timeout 20m -v ./test/e2e/...

packages: $(CACHE)/nfpm-$(NFPM) ## dist/: tarball, deb, rpm, apk and archlinux for each architecture, with checksums
	@rm -rf dist && mkdir -p dist
	@for arch in $(ARCHS); do .ci/package $(VERSION) $$arch $< $(FORMATS) || exit 1; done
	cd dist && sha256sum holdfast* > SHA256SUMS && cat SHA256SUMS

$(CACHE)/nfpm-$(NFPM):
	@mkdir -p $(CACHE)/nfpm
	GOBIN=$(CACHE)/nfpm go install github.com/goreleaser/nfpm/v2/cmd/nfpm@$(NFPM)
	mv $(CACHE)/nfpm/nfpm $@

release: ## make release VERSION=1.2.3: what is published, from a clean tree, built twice and compared
	.ci/release $(VERSION)

reproducible: $(CACHE)/nfpm-$(NFPM) ## builds and packs twice, in two folders, and compares
	.ci/reproducible $(VERSION)

clean: ## removes what was built; the cache stays
	rm -rf bin dist
