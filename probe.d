probe.o: fs/probe.c fs/fsys.h backend/base/clock.h backend/base/hash.h \
  backend/base/strbuf.h backend/engine.h backend/base/err.h \
  backend/base/inbox.h backend/base/list.h backend/config.h \
  backend/run.h backend/event.h backend/scan.h backend/spool.h fs/ino.h \
  fs/session.h fs/shared.h /usr/include/fuse3/fuse_lowlevel.h \
  /usr/include/fuse3/fuse_common.h /usr/include/fuse3/libfuse_config.h \
  /usr/include/fuse3/fuse_opt.h /usr/include/fuse3/fuse_log.h fs/table.h \
  backend/base/mem.h

fs/fsys.h:

backend/base/clock.h:

backend/base/hash.h:

backend/base/strbuf.h:

backend/engine.h:

backend/base/err.h:

backend/base/inbox.h:

backend/base/list.h:

backend/config.h:

backend/run.h:

backend/event.h:

backend/scan.h:

backend/spool.h:

fs/ino.h:

fs/session.h:

fs/shared.h:

/usr/include/fuse3/fuse_lowlevel.h:

/usr/include/fuse3/fuse_common.h:

/usr/include/fuse3/libfuse_config.h:

/usr/include/fuse3/fuse_opt.h:

/usr/include/fuse3/fuse_log.h:

fs/table.h:

backend/base/mem.h:
