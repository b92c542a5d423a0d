/*
 * One reading, with plain sockets: no library, no allocation, 512 bytes of stack. lwIP's and Zephyr's socket layers take it
 * nearly as it stands.
 *
 *   cc -Wall -Wextra -O2 -o put put.c && ./put 127.0.0.1 2379 readings/pump-7/temp 21.5 pump-7-1
 *
 * Exit code 0: the cluster has it (200, 201) or the box has it on disk (202). 1: it is not known to be stored; send it again,
 * with the same last argument, and it applies once. 2: it was refused, and would be again. 64: usage.
 */
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { STORED = 0, AGAIN = 1, REFUSED = 2, USAGE = 64 };

static int dial(const char *host, const char *port)
{
	struct addrinfo want = {.ai_socktype = SOCK_STREAM}, *all, *a;
	struct timeval patience = {.tv_sec = 10};
	int fd = -1;

	if (getaddrinfo(host, port, &want, &all) != 0)
		return -1;
	for (a = all; a != NULL && fd < 0; a = a->ai_next) {
		fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol);
		if (fd < 0)
			continue;
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
		if (connect(fd, a->ai_addr, a->ai_addrlen) != 0) {
			close(fd);
			fd = -1;
		}
	}
	freeaddrinfo(all);
	return fd;
}

/* send_all returns 0, or -1 if the connection broke. */
static int send_all(int fd, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
		if (n <= 0)
			return -1;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

/* status reads the first line of the answer: "HTTP/1.1 202 Accepted". 0 without one. */
static int status(int fd)
{
	char line[64];
	size_t have = 0;

	while (have < 12) {
		ssize_t n = recv(fd, line + have, sizeof line - 1 - have, 0);
		if (n <= 0)
			return 0;
		have += (size_t)n;
	}
	line[have] = '\0';
	return strncmp(line, "HTTP/1.", 7) == 0 ? atoi(line + 9) : 0;
}

int main(int argc, char **argv)
{
	char head[512];
	int fd, len, code = 0;

	if (argc != 6) {
		fprintf(stderr, "usage: %s HOST PORT KEY VALUE IDEMPOTENCY-KEY\n", argv[0]);
		return USAGE;
	}
	len = snprintf(head, sizeof head,
		       "PUT /v1/kv/%s HTTP/1.1\r\nHost: %s\r\nContent-Length: %zu\r\nIdempotency-Key: %s\r\nConnection: close\r\n\r\n",
		       argv[3], argv[1], strlen(argv[4]), argv[5]);
	if (len < 0 || (size_t)len >= sizeof head) {
		fprintf(stderr, "%s: the key is too long\n", argv[0]);
		return USAGE;
	}
	fd = dial(argv[1], argv[2]);
	if (fd >= 0 && send_all(fd, head, (size_t)len) == 0 && send_all(fd, argv[4], strlen(argv[4])) == 0)
		code = status(fd);
	if (fd >= 0)
		close(fd);
	printf("%d\n", code);
	if (code == 200 || code == 201 || code == 202)
		return STORED;
	return code >= 400 && code < 500 && code != 429 ? REFUSED : AGAIN;
}
