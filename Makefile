# make            build everything
# make demo       a one-node Slurm cluster, a registry, an image, and srun --container
# make test       all tests; SHIFTER_TEST_REQUIRE=1 allows none to be skipped
# make test-NAME  one program of them, after make faults build: tests/NAME.rs or tests/NAME/main.rs;
#                 trixie-NAME: the same with the Slurm of Debian 13
# make bench      how fast, beside others: tables, also in BENCH_DIR/results with a picture of a
#                 pull; BENCH_ROUNDS, BENCH_IMAGES, BENCH_PEERS …: see tests/bench/main.rs
# make fuzz       what reads bytes from outside, SECONDS=60 for each target; see tests/fuzz/run.sh
# make install    into PREFIX (libraries into LIBDIR), below DESTDIR; make uninstall
# make deb, rpm   a package of what was built, in target/deb or target/rpm
# Root is needed by demo, test and bench (daemons that change users), and to install packages.

CARGO ?= cargo
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
BENCH_TOOLS ?= ../shared/bench
SECONDS ?= 60
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
RELEASE := $(TARGET)/release
# Not cargo's: runtime/build.rs compiles it.
CALLER := runtime/src/sys/caller/main.rs
# How many test programs run at the same time: they wait more than they work.
TEST_JOBS ?= 3
# The test of packages calls make, which is none of this one's; and who starts this in the background
# has interrupts ignored, which other tests are about.
TEST := env -u MAKEFLAGS -u MFLAGS --default-signal=INT,QUIT $(CARGO) test --release --workspace
TESTS := $(shell sed -n '/^\[\[test/,/^path/s/^name = "\(.*\)"/\1/p' tests/Cargo.toml)
TRIXIE := slurm_stops slurm_options slurm relay mpi
# What takes long begins first; and what waits for another (see trixie-) long after that: make comes
# back to it at the very end if the other still runs.
LONG := trixie test-fan_out test-images test-slurm_options test-mpi test-slurm_stops trixie-slurm_stops \
    test-slurm trixie-slurm trixie-slurm_options test-relay trixie-relay trixie-mpi
export CARGO_TARGET_DIR := $(TARGET)
export BENCH_DIR ?= $(TARGET)/bench
export BENCH_TOOLS

.PHONY: all build faults demo test lint bench fuzz install uninstall deb rpm clean
.PHONY: test-all test-units trixie $(TESTS:%=test-%) $(TRIXIE:%=trixie-%)

all: build

build:
	$(CARGO) build --release --workspace

# The plugin that fails where it is told to. Never installed; the tests load it. Whatever is built
# next puts the real one back in its place. Of the whole workspace: for a part of it, cargo would
# build all that it depends on once more, with fewer features.
faults:
	$(CARGO) build --release --workspace --features shifter-spank/faults
	install -D $(RELEASE)/libshifter_spank.so $(TARGET)/faults/libshifter_spank.so

demo:
	tests/setup.sh build demo
	$(MAKE) build
	$(RELEASE)/demo

test:
	tests/setup.sh build test
	$(MAKE) faults
	$(MAKE) build
	$(CARGO) test --release --workspace --no-run
	$(MAKE) --jobs=$(TEST_JOBS) --output-sync=target --keep-going test-all

test-all: $(LONG) $(TRIXIE:%=trixie-%) test-units $(TESTS:%=test-%)

$(TESTS:%=test-%): test-%:
	$(TEST) --test $*

test-units:
	$(TEST) --lib --bins \
	    $(patsubst runtime/tests/%.rs,--test %,$(wildcard runtime/tests/*.rs))
	$(TEST) --doc

# The same with the Slurm of Debian 13.
$(TRIXIE:%=trixie-%): trixie-%: trixie
	$(TEST) --test $* \
	    --config "target.'cfg(all())'.runner = 'tests/in-trixie.sh'"

# It has no compiler, and takes what the others have made.
trixie-mpi: test-mpi
trixie-slurm_options: test-slurm_options

trixie:
	tests/in-trixie.sh true

lint:
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path tests/fuzz/Cargo.toml --check
	rustfmt --edition 2024 --check $(CALLER)
	mkdir -p $(TARGET)
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

# Under running jobs, too: a file takes the place of its predecessor in one step, and who has that one
# open keeps it.
put = install -m $(1) $(2) $(3).new && mv -f $(3).new $(3)
BIN := $(DESTDIR)$(PREFIX)/bin
SHARE := $(DESTDIR)$(PREFIX)/share
PLUGIN := $(LIBDIR)/slurm/shifter.so
SITE := $(DESTDIR)/etc/shifter/shifter.toml
COMPLETIONS := bash:bash-completion/completions/shifter zsh:zsh/site-functions/_shifter \
    fish:fish/vendor_completions.d/shifter.fish

install: build
	install -d $(BIN) $(dir $(DESTDIR)$(PLUGIN)) $(SHARE)/shifter $(dir $(SITE))
	# In this order: the new one becomes the new other.
	$(call put,755,$(RELEASE)/shifter-pull,$(BIN)/shifter-pull)
	$(call put,755,$(RELEASE)/shifter,$(BIN)/shifter)
	$(call put,755,$(RELEASE)/libshifter_spank.so,$(DESTDIR)$(PLUGIN))
	install -m 644 runtime/src/default.toml $(SHARE)/shifter/shifter.toml
	for file in plugstack.conf apparmor; do \
	    sed 's|@PREFIX@|$(PREFIX)|g; s|@PLUGIN@|$(PLUGIN)|g' packaging/$$file \
	        >$(SHARE)/shifter/$$file || exit; \
	done
	test -e $(SITE) || sed 's|@PREFIX@|$(PREFIX)|g' packaging/shifter.toml >$(SITE)
	$(RELEASE)/shifter manual $(SHARE)/man/man1
	for shell in $(COMPLETIONS); do \
	    file=$(SHARE)/$${shell#*:}; \
	    mkdir -p $${file%/*} && $(RELEASE)/shifter completion $${shell%%:*} >$$file || exit; \
	done
	# Shells look for a command's completion by its name.
	ln -sf shifter $(SHARE)/bash-completion/completions/shifter-pull
	ln -sf shifter.fish $(SHARE)/fish/vendor_completions.d/shifter-pull.fish
	sed -n '/^#compdef shifter-pull/,$$p' $(SHARE)/zsh/site-functions/_shifter \
	    >$(SHARE)/zsh/site-functions/_shifter-pull
	@echo 'Slurm loads the plugin when $(PREFIX)/share/shifter/plugstack.conf is where that file says'

# The site's settings stay.
uninstall:
	rm -f $(BIN)/shifter $(BIN)/shifter-pull $(DESTDIR)$(PLUGIN)
	rm -f $(SHARE)/man/man1/shifter.1 $(SHARE)/man/man1/shifter-*.1
	rm -f $(SHARE)/bash-completion/completions/shifter $(SHARE)/bash-completion/completions/shifter-pull
	rm -f $(SHARE)/zsh/site-functions/_shifter $(SHARE)/zsh/site-functions/_shifter-pull
	rm -f $(SHARE)/fish/vendor_completions.d/shifter.fish $(SHARE)/fish/vendor_completions.d/shifter-pull.fish
	rm -rf $(SHARE)/shifter
	@echo 'if plugstack.conf names $(PLUGIN), take that line out: no job starts with it'

deb: build
	rm -rf $(TARGET)/deb
	$(MAKE) --old-file=build install PREFIX=/usr LIBDIR=/usr/lib DESTDIR=$(TARGET)/deb/root
	packaging/deb.sh $(TARGET)/deb $(VERSION)

rpm: build
	rm -rf $(TARGET)/rpm
	rpmbuild -bb --build-in-place --nodeps --define 'version $(VERSION)' \
	    --define '_topdir $(TARGET)/rpm' --define 'make $(MAKE) --old-file=build' \
	    packaging/shifter.spec
	mv $(TARGET)/rpm/RPMS/*/*.rpm $(TARGET)/rpm
	@echo $(TARGET)/rpm/*.rpm

clean:
	$(CARGO) clean
