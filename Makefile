# slurmray: make, make check, make quickstart, make demo; `make help` lists the rest.
#
# V=1 shows the commands. SANITIZE=address,undefined or thread builds into a directory of its own.

PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
MANDIR ?= $(PREFIX)/share/man
MNT ?= build/mnt
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

PACKAGES := fuse3 libssh2 jansson sqlite3
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
	$(call say,TOOL,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $^ $(DEP_LIBS)

unit-tests: $(TESTS)
tools: $(TOOLS)

check-unit: unit-tests
	$(Q)scripts/run-unit $O/tests

clean:
	$(Q)scripts/clean build

-include $(shell find $O/obj -name '*.d' 2>/dev/null)

.PHONY: all unit-tests tools check-unit clean
.SECONDARY:
