/*
 * What the parts of the libssh2 transport share; private to transport_ssh2*.c.
 */
#ifndef BACKEND_TRANSPORT_SSH2_H
#define BACKEND_TRANSPORT_SSH2_H

#include "backend/base/clock.h"
#include "backend/base/list.h"
#include "backend/base/strbuf.h"
#include "backend/ssh_config.h"
#include "backend/transport.h"

#include <libssh2.h>

/* ---- dial: a name becomes a connected socket (transport_ssh2_dial.c) ---- */

struct resolve;
struct addrinfo;

struct dial {
	const struct clock *clock;
	const char *host;            /* borrowed */
	struct resolve *resolve;     /* while the name is looked up */
	struct addrinfo *addrs, *at; /* owned; the address that is tried */
	int fd;                      /* connecting, or -1 */
	int64_t deadline, next;      /* of everything; of this address */
	int last;                    /* why the last address failed */
};

int dial_start(struct dial *d, const struct clock *clock, const char *host, int port, enum ssh_family family,
	       int64_t timeout_us, struct err *e);
/* The connected descriptor, which is the caller's then; -EAGAIN; or why not. */
int dial_step(struct dial *d, struct err *e);
int dial_fd(const struct dial *d, short *events);
int64_t dial_deadline(const struct dial *d);
void dial_stop(struct dial *d);

/* ---- known hosts (transport_ssh2_hosts.c) ---- */

struct known_host {
	char *file;
	int line;
	char *type, *key; /* "ssh-ed25519", base64 */
	bool revoked;
	bool loose; /* an entry without the port: it may accept, not contradict */
};

struct known_hosts {
	struct known_host *v;
	size_t n;
};

/* Collects the entries for this host. Files that are not there are skipped. */
void known_hosts_load(struct known_hosts *k, LIBSSH2_SESSION *session, const struct ssh_config *cfg);
void known_hosts_release(struct known_hosts *k);
/* Host key algorithms, those of known keys first: for LIBSSH2_METHOD_HOSTKEY. */
void known_hosts_algorithms(const struct known_hosts *k, LIBSSH2_SESSION *session, struct strbuf *out);
/* 0, or -EKEYREJECTED with what to do. `blob` is the key that the server showed. */
int known_hosts_check(const struct known_hosts *k, const struct ssh_config *cfg, const char *blob, size_t len,
		      const char *fingerprint, struct err *e);

/* Base64 (RFC 4648) without the final '='s when !pad. */
void base64_add(struct strbuf *sb, const void *data, size_t len, bool pad);
/* The type word at the beginning of a key blob (RFC 4253, 6.6); "" when it is none. */
void blob_type(const void *blob, size_t len, char *out, size_t size);

/* ---- authentication (transport_ssh2_auth.c) ---- */

enum key_source { KEY_AGENT, KEY_FILE };

struct auth_key {
	enum key_source from;
	char *label;                              /* for messages */
	char *path;                               /* KEY_FILE */
	struct libssh2_agent_publickey *identity; /* KEY_AGENT; owned by the agent handle */
	bool rsa;
};

struct auth {
	bool listed; /* the server's methods are known, keys are collected */
	LIBSSH2_AGENT *agent;
	struct auth_key *keys;
	size_t n_keys, at;
	int refused;                  /* keys that the server said no to */
	struct strbuf tried, skipped; /* words for the refusal */
	int64_t agent_deadline;       /* for the agent's socket */
};

void auth_init(struct auth *a);
void auth_release(struct auth *a);
/* 0: logged in; -EAGAIN; -EKEYREJECTED with a sentence; -ECONNRESET: the connection broke. */
int auth_step(struct auth *a, LIBSSH2_SESSION *session, const struct ssh_config *cfg, const struct clock *clock,
	      int64_t login_deadline, struct err *e);
const char *auth_label(const struct auth *a);

/* ---- the transport (transport_ssh2.c) and its channels (transport_ssh2_channel.c) ---- */

enum phase { PHASE_DIAL, PHASE_HANDSHAKE, PHASE_AUTH, PHASE_READY, PHASE_FAILED };

struct transport {
	const struct clock *clock;
	struct ssh_config cfg;
	char *alias;
	enum phase phase;
	enum transport_state failed_as; /* PHASE_FAILED */
	struct err failure;
	struct dial dial;
	int fd;
	bool gone; /* the socket is at its end or broken: `gone_errno`, 0 for its end */
	int gone_errno;
	bool closing; /* no more socket calls: close() runs */
	bool pumped;  /* bytes were taken from the socket since step began */
	LIBSSH2_SESSION *session;
	struct strbuf wire; /* packets that are not sent yet; libssh2 never sees a short send */
	struct known_hosts known;
	struct auth auth;
	int64_t login_deadline;
	int64_t alive_us, next_alive; /* keepalives */
	int alive_max, unanswered;
	int unread; /* bytes in the socket at the last keepalive */
	struct list channels;
	struct channel *opening; /* libssh2 has one state for opens */
	char fingerprint[80];
	char *describe;
};

enum channel_state { CHANNEL_WAITING, CHANNEL_OPENING, CHANNEL_STARTING, CHANNEL_OPEN, CHANNEL_DEAD };

struct channel {
	struct list node; /* transport.channels */
	struct transport *t;
	char *command; /* or NULL: the login shell */
	bool subsystem;
	char *host; /* a stream to host:port instead of all that, or NULL */
	int port;
	bool eof_wanted, eof_sent;
	bool shut; /* the peer takes no more */
	enum channel_state state;
	int error; /* CHANNEL_DEAD */
	LIBSSH2_CHANNEL *ch;
	struct strbuf tx; /* accepted from the owner, repeated until libssh2 takes it */
	size_t tx_at;
	bool hungry;   /* the owner read to the end of what was there */
	bool released; /* the owner is done with it; freed when libssh2 is */
};

/* The connection is lost or wrong: from now on step() says so. */
void transport_fail(struct transport *t, enum transport_state as, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* The same with what libssh2 or the socket says. */
void transport_fail_io(struct transport *t, const char *doing);

int channel_open_ssh2(struct transport *t, const char *command, bool subsystem, struct channel **out, struct err *e);
int channel_direct_ssh2(struct transport *t, const char *host, int port, struct channel **out, struct err *e);
void channel_send_eof_ssh2(struct channel *c);
ssize_t channel_read_ssh2(struct channel *c, void *buf, size_t len);
ssize_t channel_read_stderr_ssh2(struct channel *c, void *buf, size_t len);
ssize_t channel_write_ssh2(struct channel *c, const void *buf, size_t len);
void channel_close_ssh2(struct channel *c);
/* Goes on with opens, closes and writes. */
void channels_step(struct transport *t);
/* Somebody waits for bytes from the peer. */
bool channels_want_input(const struct transport *t);
/* All channels are dead with this error. */
void channels_abort(struct transport *t, int error);
/* Frees them all; the session is gone. */
void channels_free(struct transport *t);

#endif
