remote_usage.o: backend/remote_usage.c backend/remote.h backend/agent.h \
  backend/base/err.h backend/base/strbuf.h backend/base/hash.h \
  backend/base/list.h backend/cluster.h backend/base/clock.h \
  backend/base/inbox.h backend/config.h backend/event.h backend/job.h \
  backend/sched.h backend/sftp.h backend/spool.h backend/tar.h \
  backend/transport.h backend/base/log.h backend/base/mem.h

backend/remote.h:

backend/agent.h:

backend/base/err.h:

backend/base/strbuf.h:

backend/base/hash.h:

backend/base/list.h:

backend/cluster.h:

backend/base/clock.h:

backend/base/inbox.h:

backend/config.h:

backend/event.h:

backend/job.h:

backend/sched.h:

backend/sftp.h:

backend/spool.h:

backend/tar.h:

backend/transport.h:

backend/base/log.h:

backend/base/mem.h:
