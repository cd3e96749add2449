run_apply.o: backend/run_apply.c backend/run.h backend/base/hash.h \
  backend/base/list.h backend/event.h backend/base/clock.h \
  backend/base/mem.h

backend/run.h:

backend/base/hash.h:

backend/base/list.h:

backend/event.h:

backend/base/clock.h:

backend/base/mem.h:
