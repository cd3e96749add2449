/*
 * The one synchronised object of the program: a queue of owned messages and an eventfd that is readable while
 * the queue is not empty. Any thread may post; one thread takes. A message belongs to the queue from post
 * until it is taken, then to the taker, who calls msg_release.
 */
#ifndef BASE_INBOX_H
#define BASE_INBOX_H

#include "backend/base/list.h"

#include <pthread.h>

struct msg {
	struct list node;              /* private to the inbox */
	int type;                      /* meaning is the receiver's */
	void (*release)(struct msg *); /* frees the message and what it owns */
};

struct inbox {
	pthread_mutex_t lock;
	struct list queue;
	int fd;
};

int inbox_init(struct inbox *in);     /* 0 or negative errno */
void inbox_release(struct inbox *in); /* releases the messages that are still there */
void inbox_post(struct inbox *in, struct msg *m);

/* Moves all messages that are there to `out` (an initialised list of msg.node); never waits. */
void inbox_take(struct inbox *in, struct list *out);

/* For poll(2): readable while there is something to take. */
static inline int inbox_fd(const struct inbox *in)
{
	return in->fd;
}

static inline void msg_release(struct msg *m)
{
	if (m->release)
		m->release(m);
}

#endif
