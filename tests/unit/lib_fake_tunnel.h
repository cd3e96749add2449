/*
 * A transport whose logins are pretended and whose channels to ports are sockets of this machine, whatever host is
 * named. Faults are switches that any thread may set.
 */
#ifndef TESTS_LIB_FAKE_TUNNEL_H
#define TESTS_LIB_FAKE_TUNNEL_H

#include "backend/transport.h"

struct fake_tunnel {
	_Atomic bool refuse;       /* logins are refused: nothing more is tried */
	_Atomic bool unreachable;  /* nobody answers */
	_Atomic bool cut;          /* the connection that is there breaks; once */
	_Atomic bool stall;        /* no bytes move */
	_Atomic int logins, opens; /* tried; channels */
	_Atomic int hosts[4];      /* logins by host */
	_Atomic int names;         /* channels to hosts that are names */
};
extern struct fake_tunnel fake_tunnel;
extern const struct transport_ops transport_fake_tunnel_ops;

void fake_tunnel_clear(void);

#endif
