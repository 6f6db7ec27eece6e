# make            build everything
# make demo       a one-node Slurm cluster, a registry, an image, and srun --container
# make test       all tests; SHIFTER_TEST_REQUIRE=1 allows none to be skipped
# make bench      how fast, beside others: tables, also in BENCH_DIR/results with a picture of a
#                 pull; BENCH_ROUNDS, BENCH_IMAGES, BENCH_PEERS …: see tests/bench/main.rs
# make fuzz       what reads bytes from outside, SECONDS=60 for each target; see tests/fuzz/run.sh
# make install    into PREFIX, below DESTDIR
# Root is needed by demo, test and bench (daemons that change users), and to install packages.

CARGO ?= cargo
PREFIX ?= /usr/local
BENCH_TOOLS ?= ../shared/bench
SECONDS ?= 60
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
RELEASE := $(TARGET)/release
# Not cargo's: runtime/build.rs compiles it.
CALLER := runtime/src/sys/caller/main.rs
export CARGO_TARGET_DIR := $(TARGET)
export BENCH_DIR ?= $(TARGET)/bench
export BENCH_TOOLS

.PHONY: all build faults demo test lint bench fuzz install clean

all: build

build:
	$(CARGO) build --release --workspace

# The plugin that fails where it is told to. Never installed; the tests load it. Whatever is built
# next puts the real one back in its place.
faults:
	$(CARGO) build --release --package shifter-spank --features faults
	install -D $(RELEASE)/libshifter_spank.so $(TARGET)/faults/libshifter_spank.so

demo:
	tests/setup.sh build demo
	$(MAKE) build
	$(RELEASE)/demo

test:
	tests/setup.sh build test
	$(MAKE) faults
	$(MAKE) build
	$(CARGO) test --release --workspace
	$(CARGO) test --release --workspace --test slurm --test mpi --test relay \
	    --config "target.'cfg(all())'.runner = 'tests/in-trixie.sh'"

lint:
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path tests/fuzz/Cargo.toml --check
	rustfmt --edition 2024 --check $(CALLER)
	clippy-driver --edition 2024 --emit metadata -o $(TARGET)/caller.rmeta -C panic=abort -D warnings $(CALLER)
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps --document-private-items

bench:
	tests/setup.sh build bench
	$(MAKE) build
	$(RELEASE)/bench

fuzz:
	tests/setup.sh build fuzz
	tests/fuzz/run.sh $(SECONDS)

install: build
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/slurm $(DESTDIR)$(PREFIX)/share/shifter
	install -m 755 $(RELEASE)/shifter $(RELEASE)/shifter-pull $(DESTDIR)$(PREFIX)/bin/
	install -m 755 $(RELEASE)/libshifter_spank.so $(DESTDIR)$(PREFIX)/lib/slurm/shifter.so
	install -m 644 runtime/src/default.toml $(DESTDIR)$(PREFIX)/share/shifter/shifter.toml
	$(RELEASE)/shifter manual $(DESTDIR)$(PREFIX)/share/man/man1
	for shell in bash:bash-completion/completions/shifter zsh:zsh/site-functions/_shifter \
	    fish:fish/vendor_completions.d/shifter.fish; do \
	    file=$(DESTDIR)$(PREFIX)/share/$${shell#*:}; \
	    mkdir -p $${file%/*} && $(RELEASE)/shifter completion $${shell%%:*} >$$file || exit; \
	done
	@echo 'plugstack.conf: required $(PREFIX)/lib/slurm/shifter.so shifter=$(PREFIX)/bin/shifter'

clean:
	$(CARGO) clean
