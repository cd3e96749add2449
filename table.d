table.o: fs/table.c fs/table.h backend/base/strbuf.h backend/base/clock.h \
  backend/base/mem.h

fs/table.h:

backend/base/strbuf.h:

backend/base/clock.h:

backend/base/mem.h:
