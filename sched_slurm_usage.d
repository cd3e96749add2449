sched_slurm_usage.o: backend/sched_slurm_usage.c backend/sched_slurm.h \
  backend/sched.h backend/base/err.h backend/base/strbuf.h \
  backend/event.h backend/job.h backend/base/clock.h backend/base/mem.h

backend/sched_slurm.h:

backend/sched.h:

backend/base/err.h:

backend/base/strbuf.h:

backend/event.h:

backend/job.h:

backend/base/clock.h:

backend/base/mem.h:
