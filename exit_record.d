exit_record.o: backend/exit_record.c backend/sched.h backend/base/err.h \
  backend/base/strbuf.h backend/event.h backend/job.h \
  backend/base/clock.h backend/base/mem.h

backend/sched.h:

backend/base/err.h:

backend/base/strbuf.h:

backend/event.h:

backend/job.h:

backend/base/clock.h:

backend/base/mem.h:
