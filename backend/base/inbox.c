/*
 * The inbox: a mutex around a list, and an eventfd written when the list becomes non-empty. The eventfd is
 * cleared before the list is taken, so a post in between wakes the taker again and is never lost.
 */
#include "backend/base/inbox.h"

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

int inbox_init(struct inbox *in)
{
	list_init(&in->queue);
	in->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (in->fd < 0)
		return -errno;
	(void)pthread_mutex_init(&in->lock, NULL);
	return 0;
}

void inbox_release(struct inbox *in)
{
	struct list *n;

	while ((n = list_pop(&in->queue)))
		msg_release(container_of(n, struct msg, node));
	(void)pthread_mutex_destroy(&in->lock);
	(void)close(in->fd);
	in->fd = -1;
}

void inbox_post(struct inbox *in, struct msg *m)
{
	uint64_t one = 1;
	bool first;

	(void)pthread_mutex_lock(&in->lock);
	first = list_empty(&in->queue);
	list_init(&m->node);
	list_add_tail(&in->queue, &m->node);
	(void)pthread_mutex_unlock(&in->lock);
	if (first)
		(void)!write(in->fd, &one, sizeof(one));
}

void inbox_take(struct inbox *in, struct list *out)
{
	uint64_t n;

	(void)!read(in->fd, &n, sizeof(n));
	(void)pthread_mutex_lock(&in->lock);
	list_splice(out, &in->queue);
	(void)pthread_mutex_unlock(&in->lock);
}
