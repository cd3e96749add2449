supervisor.o: backend/supervisor.c backend/supervisor_impl.h \
  backend/supervisor.h backend/base/err.h backend/base/clock.h \
  backend/base/mem.h backend/base/strbuf.h backend/sched.h \
  backend/event.h backend/job.h

backend/supervisor_impl.h:

backend/supervisor.h:

backend/base/err.h:

backend/base/clock.h:

backend/base/mem.h:

backend/base/strbuf.h:

backend/sched.h:

backend/event.h:

backend/job.h:
