# Every target installs first what is missing (./setup); run them as root.

# Where rustup puts cargo, for shells that have not been told.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

PROFILE := debug
BIN := target/$(PROFILE)
CASES := $(foreach suite,netpol clusternetworkpolicy corners,tests/conformance/$(suite)/cases)
BENCHES := cni policy traffic overlay scale ebpf bgp
FUZZ := 10
SOAK := 10
# What `make test-upgrade` begins with: the last commit whose maps of the eBPF dataplane have layout 5.
FROM := 4c83705f24b7de1515e08bf0da82cc30d084fc99
FUZZED := margay-policy margay-ipam margay-bgp margay-netlink

.DEFAULT_GOAL := help
.PHONY: help setup build ebpf demo lab test test-kernels test-upgrade soak conformance fuzz plugin image bench fmt lint manifests

help: ## print this list
	@echo 'usage: make TARGET'
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do \
	    printf '  %-12s %s\n' "$$target" "$$text"; done

setup: ## install what the build, the tests and the demo need and is missing
	@./setup

# One profile for everything: what the tests have compiled, the demo runs.
build: setup
	cargo build --locked --workspace --bins

ebpf: setup ## build the kernel programs into target/bpf
	ebpf/build

demo: build ## run a three-node cluster, show it route and isolate, clean up
	$(BIN)/margay-lab demo

lab: build ## bring up a cluster to play with; `target/debug/margay-lab down` ends it
	$(BIN)/margay-lab up
	@echo
	@echo 'The cluster is up. Next:'
	@echo '  export KUBECONFIG=$$($(BIN)/margay-lab kubeconfig)'
	@echo '  kubectl get nodes'
	@echo '  $(BIN)/margay-lab reach        the matrix of who reaches whom'
	@echo '  $(BIN)/margay-lab down         the end'

test: build ebpf ## run all tests but test-kernels and test-upgrade, fuzz all that parses for a minute and a half, then run the conformance cases
	image/build --profile dev $(if $(filter aarch64,$(shell uname -m)),arm64,amd64)
	cargo test --locked --workspace
	fuzz/run 60 bgp
	fuzz/run 30 node
	$(MAKE) --no-print-directory conformance

# Another kernel in a machine of software, which is slow: docs/ebpf.md says how long each suite takes there.
test-kernels: build ebpf ## run the tests of the kernel's on Debian 12's: make test-kernels SUITES="ebpf overlay"
	tests/kernels/run $(SUITES)

test-upgrade: build ebpf ## take nodes from an older commit's programs to those of now and back: make test-upgrade FROM=COMMIT
	tests/upgrade/run $(FROM)

# What `make test` has of it takes seconds each: storms, outages, upgrades and kills, so many times as long.
soak: build ebpf ## run the storms and faults of the tests for longer: make soak SOAK=100
	MARGAY_SOAK=$(SOAK) cargo test --locked --workspace --test faults --test crash

# Most of its time goes to waiting for packets that are denied: both dataplanes take it together.
conformance: build
	$(MAKE) --no-print-directory -j2 --output-sync=target conformance-nftables conformance-ebpf

conformance-%:
	$(BIN)/margay-lab conformance --ip-families dual --dataplane $* $(CASES)

# Property tests and fuzz targets have fixed seeds in `make test` (.cargo/config.toml, fuzz/run). A failure prints
# what to add as a test of its own, or the file that has it.
fuzz: setup ## run the property tests and the fuzz targets with a new seed, for longer: make fuzz FUZZ=100
	@seed=$$(od -An -N4 -tu4 /dev/urandom | tr -d ' '); echo "PROPTEST_RNG_SEED=$$seed"; \
	PROPTEST_RNG_SEED=$$seed PROPTEST_CASES=$$((256 * $(FUZZ))) MARGAY_FUZZ_FACTOR=$(FUZZ) cargo test --locked --release \
	    $(foreach crate,$(FUZZED),-p $(crate)) --lib --test simulation && \
	PROPTEST_RNG_SEED=$$seed MARGAY_FUZZ_FACTOR=$(FUZZ) cargo test --locked --release -p margay-node agreement && \
	FUZZ_KEEP=1 FUZZ_SEED=$$seed fuzz/run $$((60 * $(FUZZ)))

plugin: setup ## build the CNI plugin as it is shipped: optimised, static, for any host
	RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --release -p margay-cni \
	    --target $$(rustc -vV | sed -n 's/^host: //p')

image: ## build the container image, amd64 and arm64, into target/image/margay.tar
	image/build

bench: plugin ebpf ## run the benchmarks, or one of them: make bench BENCH=cni
	@$(foreach bench,$(if $(BENCH),$(BENCH),$(BENCHES)),$(if $(filter $(bench),$(BENCHES)),,\
	    $(error no benchmark `$(bench)`; there is: $(BENCHES))))true
	cargo build --locked --release --bins -p margay-node -p margay-bgp
# The API server that the agent talks to is part of what measures it: it must not be slow.
	@set -e; for bench in $(if $(BENCH),$(BENCH),$(BENCHES)); do \
	    if [ $$bench = bgp ]; then tests/bench/bgp; continue; fi; \
	    cargo bench --locked --profile release -p margay-tests --bench $$bench; done

fmt: ## format the code
	cargo fmt
	cd ebpf && cargo fmt
	cd fuzz && cargo fmt

lint: setup ## check format, lints and licences
	cargo fmt --check
	cd ebpf && cargo fmt --check
	cd fuzz && cargo fmt --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked -p margay-tests --test ipip --test upgrade -- -D warnings
	ebpf/build clippy
	.ci/licences
	@if command -v cargo-deny > /dev/null; then cargo deny check; else echo 'cargo-deny is not installed: advisories were not checked'; fi

manifests: ## write the definitions of the custom resources, and manifests/margay.yaml from manifests/base
	cargo run --locked --quiet -p margay-node -- crds > target/crds.yaml
	mv target/crds.yaml manifests/base/crds.yaml
	kubectl kustomize manifests/base > manifests/margay.yaml
