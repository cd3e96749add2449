sched_slurm_verify.o: backend/sched_slurm_verify.c backend/sched_slurm.h \
  backend/sched.h backend/base/err.h backend/base/strbuf.h \
  backend/event.h backend/job.h backend/base/clock.h backend/base/mem.h \
  backend/base/quote.h

backend/sched_slurm.h:

backend/sched.h:

backend/base/err.h:

backend/base/strbuf.h:

backend/event.h:

backend/job.h:

backend/base/clock.h:

backend/base/mem.h:

backend/base/quote.h:
