/*
 * A relay of bytes that understands nothing of them: each client gets a connection of its own to the upstream port, and
 * what comes from either side goes to the other. One thread, and three ways to ask the kernel for the same:
 *
 *     epoll            one epoll_wait, edge-triggered, then recv and send for what is ready, as pgweir does it
 *     uring            recv and send are submitted together, and the wait with them, by one io_uring_enter a turn
 *     uring-multishot  the same, but one recv goes on giving for as long as the connection lasts, into buffers that the
 *                      kernel takes from a ring of them
 *
 *     uring FORM PORT UPSTREAM_PORT    relay on 127.0.0.1 until killed
 *     uring probe                      say which kind of ring is to be had; status 3, and why, if none is
 *
 * It is made for benches/uring.py. What happens once in a connection's life (connect, shutdown, close) is an ordinary call
 * in all forms, and the connect blocks: it is the relaying that is compared. PostgreSQL's sockets are on the same machine.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	ROOM = 16384,          /* read at most at once */
	EVENTS = 1024,         /* of one epoll_wait, as tokio asks for */
	ENTRIES = 1024,        /* of the submission ring */
	COMPLETIONS = 4096,    /* of the completion ring; more than that the kernel keeps until there is room */
	BUFFERS = 256,         /* of the ring of buffers: few, for it goes through all of them, and they should stay in the cache */
	BUFFER_SIZE = 8192,    /* what PostgreSQL sends at once */
	HELD = 256 * 1024,     /* a multishot recv is ended when so much waits for a slow reader */
};

/* Bytes that wait for a slow reader (multishot only: elsewhere nothing is read before what was read is sent). */
struct chunk {
	struct chunk *next;
	size_t from, to;
	char bytes[];
};

/* One end of a pair of connections, and the direction that begins there: read from `fd`, sent to `other->fd`. */
struct side {
	struct pair *pair;
	struct side *other;
	int fd;
	bool eof;
	/* epoll: what is known of the socket. */
	bool readable, writable, hung_up;
	/* epoll and uring: what was read and not sent yet. */
	char *room;
	size_t from, to;
	/* multishot. */
	bool armed, cancelled, sending;
	uint16_t buffer;
	size_t buffer_len, held;
	int sent_now;
	struct chunk *first, *last;
};

struct pair {
	struct side side[2];
	bool dead;
	/* What the kernel still has of this pair: its memory and sockets stay until that is 0. */
	unsigned in_flight;
	struct pair *next_dead;
};

static int listener;
static in_port_t upstream_port;

static void die(const char *what)
{
	fprintf(stderr, "uring: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void *memory(size_t size)
{
	void *got = calloc(1, size);
	if (!got)
		die("no memory");
	return got;
}

static struct sockaddr_in loopback(in_port_t port)
{
	return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
}

static void listen_on(in_port_t port, int flags)
{
	struct sockaddr_in address = loopback(port);
	int one = 1;
	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
	if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
	    bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 4096) < 0)
		die("listen");
}

/* A pair for the client that was accepted as `client`; none, and the client gone, if the upstream takes no connection. */
static struct pair *pair_up(int client)
{
	struct sockaddr_in address = loopback(upstream_port);
	int one = 1, server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (server < 0)
		die("socket");
	if (connect(server, (struct sockaddr *)&address, sizeof address) < 0) {
		close(server);
		close(client);
		return NULL;
	}
	struct pair *pair = memory(sizeof *pair);
	for (int i = 0; i < 2; i++) {
		struct side *side = &pair->side[i];
		side->pair = pair;
		side->other = &pair->side[1 - i];
		side->fd = i ? server : client;
		setsockopt(side->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	}
	return pair;
}

static void release(struct pair *pair)
{
	for (int i = 0; i < 2; i++) {
		struct chunk *chunk = pair->side[i].first;
		while (chunk) {
			struct chunk *next = chunk->next;
			free(chunk);
			chunk = next;
		}
		free(pair->side[i].room);
	}
	free(pair);
}

/* Ends the relay if accept cannot be tried again: one that cannot open sockets any more is of no use. */
static void accept_failed(int error)
{
	if (error != ECONNABORTED && error != EINTR && error != EAGAIN && error != EPROTO) {
		errno = error;
		die("accept");
	}
}

/* epoll. */

static int poller;
/* Events of the same turn may still name a pair that an earlier one of them ended. */
static struct pair *dead;

static void end_polled(struct pair *pair)
{
	if (pair->dead)
		return;
	pair->dead = true;
	close(pair->side[0].fd);
	close(pair->side[1].fd);
	pair->next_dead = dead;
	dead = pair;
}

static void pump(struct side *side)
{
	struct side *other = side->other;
	while (!side->pair->dead) {
		if (side->from < side->to) {
			if (!other->writable)
				return;
			ssize_t n = send(other->fd, side->room + side->from, side->to - side->from, MSG_NOSIGNAL);
			if (n < 0 && errno == EAGAIN) {
				other->writable = false;
			} else if (n < 0) {
				end_polled(side->pair);
			} else {
				side->from += n;
				/* What was not taken whole met a full buffer: the next edge tells when it is not. */
				if (side->from < side->to)
					other->writable = false;
			}
			continue;
		}
		if (side->eof || !side->readable)
			return;
		ssize_t n = recv(side->fd, side->room, ROOM, 0);
		if (n < 0 && errno == EAGAIN) {
			side->readable = false;
		} else if (n < 0) {
			end_polled(side->pair);
		} else if (n == 0) {
			side->eof = true;
			if (other->eof || shutdown(other->fd, SHUT_WR) < 0)
				end_polled(side->pair);
		} else {
			side->from = 0;
			side->to = n;
			/* A read that left room has emptied the socket, and saves the one that would say so; but the edge of a
			 * socket that hung up is past, and only reading on finds the end. */
			if (n < ROOM && !side->hung_up)
				side->readable = false;
		}
	}
}

static void accept_polled(void)
{
	for (;;) {
		int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (client < 0) {
			accept_failed(errno);
			if (errno == EAGAIN)
				return;
			continue;
		}
		struct pair *pair = pair_up(client);
		if (!pair)
			continue;
		for (int i = 0; i < 2; i++) {
			struct side *side = &pair->side[i];
			side->room = memory(ROOM);
			struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = side};
			if (fcntl(side->fd, F_SETFL, O_NONBLOCK) < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, side->fd, &event) < 0)
				die("epoll_ctl");
		}
	}
}

static void relay_by_epoll(void)
{
	static struct epoll_event events[EVENTS];
	struct epoll_event listening = {.events = EPOLLIN, .data.ptr = NULL};
	poller = epoll_create1(EPOLL_CLOEXEC);
	if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, listener, &listening) < 0)
		die("epoll");
	for (;;) {
		int n = epoll_wait(poller, events, EVENTS, -1);
		if (n < 0 && errno != EINTR)
			die("epoll_wait");
		for (int i = 0; i < n; i++) {
			struct side *side = events[i].data.ptr;
			uint32_t what = events[i].events;
			if (!side) {
				accept_polled();
				continue;
			}
			if (what & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
				side->hung_up = true;
			if (what & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
				side->readable = true;
				pump(side);
			}
			if (what & (EPOLLOUT | EPOLLHUP | EPOLLERR)) {
				side->writable = true;
				pump(side->other);
			}
		}
		while (dead) {
			struct pair *next = dead->next_dead;
			release(dead);
			dead = next;
		}
	}
}

/* The rings. */

static int ring;
static bool multishot;
static struct io_uring_sqe *entries;
static struct io_uring_cqe *completions;
static unsigned *submit_head, *submit_tail, submit_mask;
static unsigned *complete_head, *complete_tail, complete_mask;
static struct io_uring_buf_ring *buffer_ring;
static char *buffers;
static unsigned *submit_flags;
/* The sides with a send that ends within its submission; each has one of the buffers. */
static struct side *sending_now[BUFFERS];
static unsigned senders_now;

/* What a completion is of: the low bits of user_data, the rest being the side. */
enum { RECV, SEND, SEND_NOW, IGNORED, ACCEPT, TAGS = 7 };

static const struct {
	unsigned flag;
	const char *name;
} wanted[] = {
	{IORING_SETUP_DEFER_TASKRUN, "DEFER_TASKRUN"},
	{IORING_SETUP_SINGLE_ISSUER, "SINGLE_ISSUER"},
	{IORING_SETUP_COOP_TASKRUN, "COOP_TASKRUN"},
};

/* NULL, or why there is no ring that both forms can do with. */
static const char *set_up_ring(void)
{
	struct io_uring_params params;
	unsigned flags = IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN;
	for (;;) {
		params = (struct io_uring_params){.flags = flags | IORING_SETUP_CQSIZE, .cq_entries = COMPLETIONS};
		ring = syscall(SYS_io_uring_setup, ENTRIES, &params);
		if (ring >= 0 || errno != EINVAL || !(flags & IORING_SETUP_DEFER_TASKRUN))
			break;
		/* It came with Linux 6.1. */
		flags &= ~IORING_SETUP_DEFER_TASKRUN;
	}
	/* SINGLE_ISSUER came with the multishot recv; all else is older. */
	if (ring < 0)
		return errno == EINVAL ? "this kernel is too old (6.0 is needed)" : strerror(errno);

	size_t size = params.cq_off.cqes + params.cq_entries * sizeof *completions;
	size_t submissions = params.sq_off.array + params.sq_entries * sizeof(unsigned);
	if (submissions > size)
		size = submissions;
	char *shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
	entries = mmap(NULL, params.sq_entries * sizeof *entries, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring,
		       IORING_OFF_SQES);
	if (shared == MAP_FAILED || entries == MAP_FAILED)
		return strerror(errno);
	submit_head = (unsigned *)(shared + params.sq_off.head);
	submit_tail = (unsigned *)(shared + params.sq_off.tail);
	submit_flags = (unsigned *)(shared + params.sq_off.flags);
	submit_mask = *(unsigned *)(shared + params.sq_off.ring_mask);
	complete_head = (unsigned *)(shared + params.cq_off.head);
	complete_tail = (unsigned *)(shared + params.cq_off.tail);
	complete_mask = *(unsigned *)(shared + params.cq_off.ring_mask);
	completions = (struct io_uring_cqe *)(shared + params.cq_off.cqes);
	/* Entries are submitted in the order in which they lie. */
	unsigned *array = (unsigned *)(shared + params.sq_off.array);
	for (unsigned i = 0; i < params.sq_entries; i++)
		array[i] = i;

	printf("ring:");
	for (unsigned i = 0; i < sizeof wanted / sizeof *wanted; i++)
		if (flags & wanted[i].flag)
			printf(" %s", wanted[i].name);
	printf("\n");
	fflush(stdout);
	return NULL;
}

static void give_back(uint16_t buffer)
{
	static uint16_t tail;
	struct io_uring_buf *slot = &buffer_ring->bufs[tail & (BUFFERS - 1)];
	/* Field by field: the ring's tail lies in what the first slot does not use. */
	slot->addr = (uintptr_t)(buffers + (size_t)buffer * BUFFER_SIZE);
	slot->len = BUFFER_SIZE;
	slot->bid = buffer;
	__atomic_store_n(&buffer_ring->tail, ++tail, __ATOMIC_RELEASE);
}

static const char *set_up_buffers(void)
{
	size_t slots = BUFFERS * sizeof(struct io_uring_buf), bytes = (size_t)BUFFERS * BUFFER_SIZE;
	char *mapped = mmap(NULL, slots + bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mapped == MAP_FAILED)
		return strerror(errno);
	buffer_ring = (struct io_uring_buf_ring *)mapped;
	buffers = mapped + slots;
	struct io_uring_buf_reg registration = {.ring_addr = (uintptr_t)mapped, .ring_entries = BUFFERS, .bgid = 0};
	if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_PBUF_RING, &registration, 1) < 0)
		return strerror(errno);
	for (unsigned i = 0; i < BUFFERS; i++)
		give_back(i);
	return NULL;
}

static unsigned unsubmitted(void)
{
	return *submit_tail - __atomic_load_n(submit_head, __ATOMIC_ACQUIRE);
}

static void enter(unsigned wait_for, unsigned flags)
{
	if (syscall(SYS_io_uring_enter, ring, unsubmitted(), wait_for, flags, NULL, 0) < 0 && errno != EINTR && errno != EAGAIN &&
	    errno != EBUSY)
		die("io_uring_enter");
}

/* Makes room for entries that must be submitted together. */
static void reserve(unsigned n)
{
	while (ENTRIES - unsubmitted() < n)
		enter(0, IORING_ENTER_GETEVENTS);
}

/* The next entry, to be filled before the next call of this kind. */
static struct io_uring_sqe *entry(uint8_t opcode, int fd, struct side *side, unsigned tag)
{
	reserve(1);
	struct io_uring_sqe *sqe = &entries[*submit_tail & submit_mask];
	memset(sqe, 0, sizeof *sqe);
	sqe->opcode = opcode;
	sqe->fd = fd;
	sqe->user_data = (uintptr_t)side | tag;
	__atomic_store_n(submit_tail, *submit_tail + 1, __ATOMIC_RELEASE);
	return sqe;
}

static struct io_uring_sqe *ask_send(struct side *side, const char *bytes, size_t len, int flags, unsigned tag)
{
	struct io_uring_sqe *sqe = entry(IORING_OP_SEND, side->other->fd, side, tag);
	sqe->addr = (uintptr_t)bytes;
	sqe->len = len;
	sqe->msg_flags = MSG_NOSIGNAL | flags;
	return sqe;
}

static void ask_accept(void)
{
	entry(IORING_OP_ACCEPT, listener, NULL, ACCEPT)->accept_flags = SOCK_CLOEXEC;
}

/* The kernel ends what it has of the pair, for its sockets are shut; the pair goes with the last of it. */
static void end_ring(struct pair *pair)
{
	if (!pair->dead) {
		pair->dead = true;
		shutdown(pair->side[0].fd, SHUT_RDWR);
		shutdown(pair->side[1].fd, SHUT_RDWR);
	}
	if (pair->in_flight)
		return;
	close(pair->side[0].fd);
	close(pair->side[1].fd);
	release(pair);
}

/* All that came from this side is sent: the other is told that no more comes. */
static void end_of(struct side *side)
{
	if (side->other->eof && !side->other->first && !side->other->sending)
		end_ring(side->pair);
	else if (shutdown(side->other->fd, SHUT_WR) < 0)
		end_ring(side->pair);
}

/* uring: a recv, then a send and the next recv together, and so on. */

static void ask_recv(struct side *side, bool more)
{
	struct io_uring_sqe *sqe = entry(IORING_OP_RECV, side->fd, side, RECV);
	sqe->addr = (uintptr_t)side->room;
	sqe->len = ROOM;
	/* Where the last one left nothing, to try before waiting is in vain: a client waits for its answer, a server for what is
	 * asked next. */
	sqe->ioprio = more ? 0 : IORING_RECVSEND_POLL_FIRST;
	side->pair->in_flight++;
}

/* The recv is linked: it begins, into the same memory, once all is sent (MSG_WAITALL), and does not if that fails. A send that
 * went well says nothing, so that the wait ends when something came and not before; one that did not completes, and its
 * recv does not. So of the two, one completion comes. */
static void ask_send_and_recv(struct side *side, bool more)
{
	reserve(2);
	ask_send(side, side->room + side->from, side->to - side->from, MSG_WAITALL, SEND)->flags =
		IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
	ask_recv(side, more);
}

static void completed(struct side *side, unsigned tag, int result, unsigned flags)
{
	struct pair *pair = side->pair;
	pair->in_flight--;
	if (pair->dead) {
		end_ring(pair);
	} else if (tag == SEND && result >= 0) {
		side->from += result;
		ask_send_and_recv(side, false);
	} else if (tag == RECV && (result == -EINTR || result == -EAGAIN)) {
		ask_recv(side, false);
	} else if (result < 0) {
		end_ring(pair);
	} else if (result == 0) {
		side->eof = true;
		end_of(side);
	} else {
		side->from = 0;
		side->to = result;
		ask_send_and_recv(side, flags & IORING_CQE_F_SOCK_NONEMPTY);
	}
}

/* uring-multishot: a recv that goes on, and sends. */

static void arm(struct side *side)
{
	struct io_uring_sqe *sqe = entry(IORING_OP_RECV, side->fd, side, RECV);
	sqe->flags = IOSQE_BUFFER_SELECT;
	sqe->buf_group = 0;
	sqe->ioprio = IORING_RECV_MULTISHOT | IORING_RECVSEND_POLL_FIRST;
	side->armed = true;
	side->cancelled = false;
	side->pair->in_flight++;
}

static struct chunk *chunk_of(const char *bytes, size_t len)
{
	struct chunk *chunk = malloc(sizeof *chunk + len);
	if (!chunk)
		die("no memory");
	*chunk = (struct chunk){.to = len};
	memcpy(chunk->bytes, bytes, len);
	return chunk;
}

/* What cannot be sent yet is copied, so that slow readers never have the ring's buffers. */
static void hold(struct side *side, const char *bytes, size_t len)
{
	struct chunk *chunk = chunk_of(bytes, len);
	if (side->last)
		side->last->next = chunk;
	else
		side->first = chunk;
	side->last = chunk;
	side->held += len;
	if (side->held > HELD && side->armed && !side->cancelled) {
		side->cancelled = true;
		struct io_uring_sqe *sqe = entry(IORING_OP_ASYNC_CANCEL, -1, NULL, IGNORED);
		sqe->addr = (uintptr_t)side | RECV;
		sqe->flags = IOSQE_CQE_SKIP_SUCCESS;
	}
}

/* Once the send before has ended: the next, or the end, or more to read. */
static void go_on(struct side *side)
{
	if (side->first) {
		struct chunk *chunk = side->first;
		ask_send(side, chunk->bytes + chunk->from, chunk->to - chunk->from, MSG_WAITALL, SEND);
		side->sending = true;
		side->pair->in_flight++;
	} else if (side->eof) {
		end_of(side);
	} else if (!side->armed) {
		arm(side);
	}
}

static void multishot_received(struct side *side, int result, unsigned flags)
{
	struct pair *pair = side->pair;
	bool has_buffer = flags & IORING_CQE_F_BUFFER;
	uint16_t buffer = flags >> IORING_CQE_BUFFER_SHIFT;
	if (!(flags & IORING_CQE_F_MORE)) {
		pair->in_flight--;
		side->armed = false;
	}
	if (has_buffer && (pair->dead || result <= 0)) {
		give_back(buffer);
		has_buffer = false;
	}
	if (pair->dead) {
		end_ring(pair);
		return;
	}
	if (has_buffer && (side->sending || side->first)) {
		hold(side, buffers + (size_t)buffer * BUFFER_SIZE, result);
		give_back(buffer);
	} else if (has_buffer) {
		/* With MSG_DONTWAIT it ends within the submission, and with MSG_WAITALL what was not sent whole is a failure. So
		 * whoever has submitted it knows that it went well if nothing says otherwise; a completion of each send would end
		 * the wait before something came. */
		ask_send(side, buffers + (size_t)buffer * BUFFER_SIZE, result, MSG_DONTWAIT | MSG_WAITALL, SEND_NOW)->flags =
			IOSQE_CQE_SKIP_SUCCESS;
		sending_now[senders_now++] = side;
		side->sending = true;
		side->sent_now = result;
		side->buffer = buffer;
		side->buffer_len = result;
		pair->in_flight++;
	} else if (result == 0) {
		side->eof = true;
	} else if (result != -ENOBUFS && result != -ECANCELED && result != -EINTR && result != -EAGAIN) {
		end_ring(pair);
		return;
	}
	/* A send that is under way goes on by itself when it ends; the recv, if it ended before its time, begins again meanwhile,
	 * unless it was ended because too much is held. */
	if (!side->sending && (side->eof || !side->armed))
		go_on(side);
	else if (!side->armed && !side->eof && side->held <= HELD && result != -ECANCELED)
		arm(side);
}

static void multishot_sent(struct side *side, unsigned tag, int result)
{
	struct pair *pair = side->pair;
	pair->in_flight--;
	side->sending = false;
	bool full = tag == SEND_NOW && result == -EAGAIN;
	if (tag == SEND_NOW) {
		size_t sent = result > 0 ? result : 0;
		if (!pair->dead && (result >= 0 || full) && sent < side->buffer_len) {
			/* Before what came since. */
			size_t rest = side->buffer_len - sent;
			struct chunk *chunk = chunk_of(buffers + (size_t)side->buffer * BUFFER_SIZE + sent, rest);
			chunk->next = side->first;
			side->first = chunk;
			if (!side->last)
				side->last = chunk;
			side->held += rest;
		}
		give_back(side->buffer);
	} else if (result > 0) {
		struct chunk *chunk = side->first;
		chunk->from += result;
		side->held -= result;
		if (chunk->from == chunk->to) {
			side->first = chunk->next;
			if (!side->first)
				side->last = NULL;
			free(chunk);
		}
	}
	if (pair->dead || (result < 0 && !full))
		end_ring(pair);
	else
		go_on(side);
}

/* Whether something is to be done as soon as the submission is over, whatever else comes. */
static bool must_go_on(void)
{
	for (unsigned i = 0; i < senders_now; i++)
		if (sending_now[i]->pair->dead || sending_now[i]->eof || sending_now[i]->first || !sending_now[i]->armed)
			return true;
	return false;
}

/* The sends of the submission that is over, before anything else that completed: that may be the end of their connection. */
static void sent_now(void)
{
	unsigned head = *complete_head, tail = __atomic_load_n(complete_tail, __ATOMIC_ACQUIRE), n = senders_now;
	if (!n)
		return;
	/* Completions are looked for where the kernel puts them first, and never had to be put elsewhere: there is room for all
	 * buffers and some thousands of ends. */
	if (__atomic_load_n(submit_flags, __ATOMIC_RELAXED) & IORING_SQ_CQ_OVERFLOW) {
		errno = EOVERFLOW;
		die("completions");
	}
	for (; head != tail; head++) {
		struct io_uring_cqe *cqe = &completions[head & complete_mask];
		if ((cqe->user_data & TAGS) == SEND_NOW)
			((struct side *)(uintptr_t)(cqe->user_data & ~(uint64_t)TAGS))->sent_now = cqe->res;
	}
	senders_now = 0;
	for (unsigned i = 0; i < n; i++)
		multishot_sent(sending_now[i], SEND_NOW, sending_now[i]->sent_now);
}

static void accepted(int result)
{
	ask_accept();
	if (result < 0) {
		accept_failed(-result);
		return;
	}
	struct pair *pair = pair_up(result);
	for (int i = 0; pair && i < 2; i++) {
		if (multishot) {
			arm(&pair->side[i]);
		} else {
			pair->side[i].room = memory(ROOM);
			ask_recv(&pair->side[i], false);
		}
	}
}

static void relay_by_ring(void)
{
	const char *missing = set_up_ring();
	if (!missing && multishot)
		missing = set_up_buffers();
	if (missing) {
		fprintf(stderr, "uring: io_uring: %s\n", missing);
		exit(3);
	}
	ask_accept();
	for (;;) {
		enter(must_go_on() ? 0 : 1, IORING_ENTER_GETEVENTS);
		while (senders_now && unsubmitted())
			enter(0, IORING_ENTER_GETEVENTS);
		sent_now();
		unsigned head = *complete_head, tail = __atomic_load_n(complete_tail, __ATOMIC_ACQUIRE);
		for (; head != tail; head++) {
			struct io_uring_cqe cqe = completions[head & complete_mask];
			__atomic_store_n(complete_head, head + 1, __ATOMIC_RELEASE);
			unsigned tag = cqe.user_data & TAGS;
			struct side *side = (struct side *)(uintptr_t)(cqe.user_data & ~(uint64_t)TAGS);
			if (tag == ACCEPT)
				accepted(cqe.res);
			else if (tag == IGNORED || tag == SEND_NOW)
				continue;
			else if (!multishot)
				completed(side, tag, cqe.res, cqe.flags);
			else if (tag == RECV)
				multishot_received(side, cqe.res, cqe.flags);
			else
				multishot_sent(side, tag, cqe.res);
		}
	}
}

int main(int argc, char **argv)
{
	const char *form = argc > 1 ? argv[1] : "";
	if (!strcmp(form, "probe")) {
		const char *missing = set_up_ring();
		if (!missing && (missing = set_up_buffers()))
			printf("io_uring's rings of buffers are not to be had: %s\n", missing);
		else if (missing)
			printf("io_uring is not to be had: %s\n", missing);
		return missing ? 3 : 0;
	}
	bool epoll = !strcmp(form, "epoll");
	multishot = !strcmp(form, "uring-multishot");
	if (argc != 4 || !(epoll || multishot || !strcmp(form, "uring"))) {
		fprintf(stderr, "usage: uring epoll|uring|uring-multishot PORT UPSTREAM_PORT\n       uring probe\n");
		return 2;
	}
	struct rlimit files;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	upstream_port = atoi(argv[3]);
	/* A ring waits by itself where a socket blocks; on one that does not it would give EAGAIN instead. */
	listen_on(atoi(argv[2]), epoll ? SOCK_NONBLOCK : 0);
	if (epoll)
		relay_by_epoll();
	else
		relay_by_ring();
}
