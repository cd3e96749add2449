# slurmray: make, make check, make quickstart, make demo; `make help` lists the rest.
#
# V=1 shows the commands. SANITIZE=address,undefined or thread builds into a directory of its own.
# check, quickstart and demo install what they need first (scripts/deps), so nothing here may need a compiler or
# pkg-config before a recipe runs.

PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
MANDIR ?= $(PREFIX)/share/man
MNT ?= build/mnt
FUZZ_SECONDS ?= 60
N ?= 100
SEED ?= 1
CLUSTER ?= local
CC ?= cc
PKG_CONFIG ?= pkg-config

empty :=
space := $(empty) $(empty)
comma := ,
ifdef SANITIZE
O := build/$(subst $(comma),-,$(SANITIZE))
else
O := build
endif

PACKAGES := fuse3 libssh2 jansson sqlite3 zlib libcurl libcrypto
DEP_CFLAGS = $(shell $(PKG_CONFIG) --cflags $(PACKAGES) 2>/dev/null)
DEP_LIBS = $(shell $(PKG_CONFIG) --libs $(PACKAGES) 2>/dev/null) -linih -lpthread

WARN := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wformat=2
HARDEN := -fPIE -fstack-protector-strong
HARDEN_LD := -pie -Wl,-z,relro,-z,now
OPT := -O2 -g
ifdef SANITIZE
OPT := -O1 -g -fno-omit-frame-pointer -fsanitize=$(SANITIZE)
HARDEN_LD += -fsanitize=$(SANITIZE)
else
HARDEN += -D_FORTIFY_SOURCE=2
endif
ifdef WERROR
WARN += -Werror
endif

VERSION := 0.1.0
CPPFLAGS += -I. -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DSLURMRAY_VERSION='"$(VERSION)"'
CFLAGS ?=
ALL_CFLAGS = -std=c11 $(OPT) $(WARN) $(HARDEN) $(DEP_CFLAGS) $(CFLAGS)
ALL_LDFLAGS = $(HARDEN_LD) $(LDFLAGS)

ifeq ($(V),1)
Q :=
say = @:
else
Q := @
say = @printf '  %-6s %s\n' $(1) $(2)
endif

SRCS := $(sort $(filter-out fs/main.c,$(wildcard fs/*.c backend/*.c backend/base/*.c launchers/*.c)))
OBJS := $(SRCS:%.c=$O/obj/%.o)
TESTS := $(patsubst tests/unit/%.c,$O/tests/%,$(wildcard tests/unit/test_*.c))
TEST_LIB := $(patsubst %.c,$O/obj/%.o,$(wildcard tests/unit/lib_*.c))
FUZZERS := $(patsubst tests/fuzz/%.c,$O/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
TOOLS := $(patsubst tests/tools/%.c,$O/tools/%,$(wildcard tests/tools/*.c))

all: $O/slurmray

$O/slurmray: $O/obj/fs/main.o $O/libslurmray.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(DEP_LIBS)

$O/libslurmray.a: $(OBJS)
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$O/obj/%.o: %.c Makefile
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$O/tests/%: $O/obj/tests/unit/%.o $(TEST_LIB) $O/libslurmray.a
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ -lcmocka $(DEP_LIBS)

$O/tools/%: tests/tools/%.c $O/libslurmray.a
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $^ $(DEP_LIBS)

unit-tests: $(TESTS)
tools: $(TOOLS)

$O/fuzz/%: tests/fuzz/%.c $O/libslurmray.a
	$(call say,FUZZ,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(ALL_CFLAGS) $(ALL_LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(DEP_LIBS)

# --- tests ---

# Everything that can be tested on this machine. STRICT=1 counts a suite that had to be skipped as a failure. Unit tests
# that need a cluster (test_*_slurm) are run by the suite that has one, tests/real.
check:
	$(Q)scripts/deps check
	$(Q)+$(MAKE) --no-print-directory run-check

run-check: $O/slurmray unit-tests tools
	$(Q)BUILD=$O scripts/run-tests $(filter-out %_slurm,$(TESTS)) $(sort $(wildcard tests/*/*.t))

check-unit: unit-tests
	$(Q)scripts/run-unit $O/tests

check-mount: $O/slurmray unit-tests tools
	$(Q)BUILD=$O scripts/run-tests $(sort $(wildcard tests/mount/*.t))

check-real: $O/slurmray unit-tests tools
	$(Q)BUILD=$O scripts/run-tests $(sort $(wildcard tests/real/*.t))

check-dagster: $O/slurmray unit-tests tools
	$(Q)BUILD=$O scripts/run-tests $$(grep -l scripts/dagster-env tests/*/*.t)

# Ray in all its tests: also that of two years ago, and every process killed in turn.
check-ray-full: $O/slurmray tools
	$(Q)LONG=1 BUILD=$O scripts/run-tests $$(grep -l -e scripts/ray-env -e lib/ray tests/*/*.t)

# Jobs in a real apptainer: downloads a Debian that has it.
check-apptainer: $O/slurmray tools
	$(Q)BUILD=$O scripts/run-tests tests/container/apptainer

# Hundreds of runs while keeper and worker are killed at every moment and every numbered point: each must run exactly once.
torture: $O/slurmray
	$(Q)BUILD=$O N=$(N) SEED=$(SEED) CLUSTER=$(CLUSTER) tests/torture/torture

# Does the torture suite notice what is broken?
torture-mutants: $O/slurmray
	$(Q)tests/torture/mutants

bench: $O/slurmray tools
	$(Q)BUILD=$O scripts/bench

bench-messages: $O/slurmray
	$(Q)BUILD=$O tests/bench/messages

bench-dagster: $O/slurmray
	$(Q)BUILD=$O tests/bench/dagster

bench-ray: $O/slurmray
	$(Q)BUILD=$O tests/bench/ray

bench-sessions: $O/slurmray tools
	$(Q)BUILD=$O tests/bench/sessions

fuzz:
	$(Q)scripts/deps lint
	$(Q)+$(MAKE) --no-print-directory CC=clang SANITIZE=fuzzer-no-link,address,undefined run-fuzz

run-fuzz: $(FUZZERS)
	$(Q)scripts/fuzz $(FUZZ_SECONDS) $^

LINT_FLAGS = -std=c11 $(WARN) $(CPPFLAGS) $(DEP_CFLAGS)
lint check-headers: export LINT_FLAGS := $(LINT_FLAGS)
lint:
	$(Q)scripts/deps lint
	$(Q)scripts/lint

check-headers:
	$(Q)scripts/check-headers

check-layers:
	$(Q)scripts/check-layers

# --- use ---

quickstart:
	$(Q)MNT=$(MNT) scripts/quickstart

demo: MNT = build/demo
demo:
	$(Q)MNT=$(MNT) scripts/quickstart --demo

install: $O/slurmray
	install -D -m 755 $O/slurmray $(DESTDIR)$(BINDIR)/slurmray
	for page in $(notdir $(wildcard docs/*.1)); do install -D -m 644 docs/$$page $(DESTDIR)$(MANDIR)/man1/$$page; done
	for page in $(notdir $(wildcard docs/*.5)); do install -D -m 644 docs/$$page $(DESTDIR)$(MANDIR)/man5/$$page; done

clean:
	$(Q)scripts/clean build

help:
	@echo 'make               build/slurmray'
	@echo 'make quickstart    build, mount at MNT=$(MNT), run a first job as a process of this machine'
	@echo 'make demo          the same on a throw-away Slurm cluster behind a real sshd'
	@echo 'make check         all tests (STRICT=1: none may be skipped); check-unit, check-mount, check-real, check-dagster, check-ray-full: some'
	@echo 'make check-apptainer   jobs in a real apptainer, for which a Debian that has it is downloaded'
	@echo 'make torture       N=$(N) kills of the daemon while it is used, and more at each point; SEED=$(SEED) CLUSTER=local|demo'
	@echo 'make torture-mutants   whether that suite notices what is broken on purpose'
	@echo 'make lint          clang-tidy, cppcheck, shellcheck, layers, headers'
	@echo 'make fuzz          each fuzzer for FUZZ_SECONDS=$(FUZZ_SECONDS)'
	@echo 'make bench         stat, open and read against the fastest possible server; submission against ssh srun'
	@echo 'make bench-sessions  steps of a warm session against srun --overlap: their start, their end, how many in a second'
	@echo 'make bench-messages  messages of Dagster Pipes: what a plain file loses, and what slurmray loses, in 20 runs each'
	@echo 'make bench-dagster   assets of Dagster beside dagster-slurm: what is added to ssh srun, and 20 and 100 at once'
	@echo 'make bench-ray       jobs of a Ray cluster beside dagster-ray: what is added, submission, logs, bytes; needs root'
	@echo 'make install       PREFIX=$(PREFIX) DESTDIR=$(DESTDIR)'
	@echo 'make clean         removes build/, and takes down what is mounted there'
	@echo 'V=1 shows the commands; SANITIZE=address,undefined or SANITIZE=thread; WERROR=1'

-include $(shell find $O/obj -name '*.d' 2>/dev/null)

.PHONY: all unit-tests tools check run-check check-unit check-mount check-real check-dagster check-ray-full check-apptainer torture torture-mutants bench bench-messages bench-dagster bench-ray bench-sessions fuzz run-fuzz lint \
	check-headers check-layers quickstart demo install clean help
.SECONDARY:
