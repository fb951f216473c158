/* The operation connect: a TCP or unix socket of the guest, its two byte streams and their ends. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include "channel.h"
#include "operations.h"
#include "program.h"
#include "sink.h"

enum {
    DEADLINE_MS = 10 * 1000,
    RETRY_MS = 20, /* a unix socket whose queue is full says so at once, and never when it no longer is */
};

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un path;
    };
    socklen_t size;
};

struct connection {
    struct stream *stream;
    struct address address;
    char attempt[160]; /* what is tried, for messages */
    struct watch socket; /* waits until it is connected; its descriptor is that of `sink` too */
    struct watch timer;
    uint64_t deadline; /* of connecting, as uptime_us */
    struct sink sink;
    int error; /* why it broke */
};

/* ---- addresses ---- */

static bool parse_path(const char *text, struct address *address)
{
    char path[PATH_MAX];
    if (!rooted(text, path, sizeof path) || strlen(path) >= sizeof address->path.sun_path)
        return false;
    address->path = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(address->path.sun_path, path, strlen(path) + 1);
    address->size = sizeof address->path;
    return true;
}

static bool parse_number(const char *text, uint32_t port, struct address *address)
{
    if (port == 0 || port > UINT16_MAX)
        return false;
    in_port_t order = htons((uint16_t)port);
    *address = (struct address){.v4 = {.sin_family = AF_INET, .sin_port = order}, .size = sizeof address->v4};
    if (inet_pton(AF_INET, text, &address->v4.sin_addr) == 1)
        return true;
    *address = (struct address){.v6 = {.sin6_family = AF_INET6, .sin6_port = order}, .size = sizeof address->v6};
    return inet_pton(AF_INET6, text, &address->v6.sin6_addr) == 1;
}

static bool take_address(struct connection *connection, struct fields *request)
{
    char *given = fields_text(request, 16);
    uint32_t port = fields_u32(request, 17, 0);
    const char *text = given && !given[0] ? "127.0.0.1" : given;
    bool good = text && !request->malformed;
    if (good && text[0] == '/') {
        good = parse_path(text, &connection->address);
        snprintf(connection->attempt, sizeof connection->attempt, "connect to %s", text);
    } else if (good) {
        good = parse_number(text, port, &connection->address);
        snprintf(connection->attempt, sizeof connection->attempt, "connect to %s port %u", text, port);
    }
    free(given);
    return good;
}

/* ---- connected ---- */

static void finish_if_over(struct connection *connection)
{
    struct stream *stream = connection->stream;
    if (connection->sink.open || stream->sources[0].active)
        return;
    if (connection->error)
        stream_error(stream, "io", "the connection broke: %s", strerror(connection->error));
    else
        stream_result(stream, NULL);
}

/* What the peer had sent before it closed can still be read when nothing more can be written. */
static void input_ended(struct sink *sink, int error)
{
    struct connection *connection = (struct connection *)((char *)sink - offsetof(struct connection, sink));
    if (error)
        connection->error = error;
    else
        shutdown(sink->watch.fd, SHUT_WR);
    finish_if_over(connection);
}

static void connect_source_ended(struct stream *stream, uint8_t channel, int error)
{
    (void)channel;
    struct connection *connection = stream->state;
    if (error) { /* of use to nobody any more */
        connection->error = error;
        sink_stop(&connection->sink);
    }
    finish_if_over(connection);
}

static void connect_data(struct stream *stream, const uint8_t *bytes, size_t size)
{
    struct connection *connection = stream->state;
    sink_put(&connection->sink, bytes, size);
}

static void connect_data_end(struct stream *stream)
{
    struct connection *connection = stream->state;
    sink_flush(&connection->sink);
}

/* ---- connecting ---- */

static void stop_timer(struct connection *connection)
{
    loop_watch(&connection->timer, 0);
    if (connection->timer.fd >= 0)
        close(connection->timer.fd);
    connection->timer.fd = -1;
}

static void say_opened(struct connection *connection)
{
    struct stream *stream = connection->stream;
    int fd = connection->socket.fd;
    loop_watch(&connection->socket, 0);
    stop_timer(connection);
    if (connection->address.any.sa_family != AF_UNIX) /* frames are what somebody wanted to send now */
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    int source = fcntl(fd, F_DUPFD_CLOEXEC, 0); /* a source and a sink are watched apart */
    if (source < 0) {
        stream_error_errno(stream, errno, "duplicate a descriptor");
        return;
    }
    channel_send(FRAME_OPENED, 0, stream->id, NULL, 0);
    if (source_start(stream, 1, source, false, UINT64_MAX))
        sink_release(&connection->sink);
    else
        stream_error(stream, "io", "epoll refuses another descriptor");
}

/* Asks for another attempt: when the kernel has decided, or after a while where it does not say so; at the latest when time is up. */
static bool wait_for_it(struct connection *connection, bool retry)
{
    long pause = retry ? RETRY_MS : DEADLINE_MS;
    const struct timespec interval = {pause / 1000, pause % 1000 * 1000000};
    const struct itimerspec due = {.it_value = interval, .it_interval = interval};
    if (connection->timer.fd >= 0)
        return true;
    connection->timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    return connection->timer.fd >= 0 && timerfd_settime(connection->timer.fd, 0, &due, NULL) == 0 &&
           loop_watch(&connection->timer, EPOLLIN) && (retry || loop_watch(&connection->socket, EPOLLOUT));
}

/* Begins to connect, or looks how far it is: the second connect of a socket says that. */
static void attempt(struct connection *connection)
{
    bool local = connection->address.any.sa_family == AF_UNIX;
    if (connect(connection->socket.fd, &connection->address.any, connection->address.size) == 0 || errno == EISCONN) {
        say_opened(connection);
        return;
    }
    bool pending = local ? errno == EAGAIN : errno == EINPROGRESS || errno == EALREADY;
    if (pending && uptime_us() >= connection->deadline)
        errno = ETIMEDOUT;
    else if (pending && wait_for_it(connection, local))
        return;
    stream_error_errno(connection->stream, errno, connection->attempt);
}

static void socket_ready(struct watch *watch)
{
    attempt((struct connection *)((char *)watch - offsetof(struct connection, socket)));
}

static void timer_ready(struct watch *watch)
{
    uint64_t times;
    if (read(watch->fd, &times, sizeof times) == sizeof times)
        attempt((struct connection *)((char *)watch - offsetof(struct connection, timer)));
}

static void connect_open(struct stream *stream, struct fields *request)
{
    struct connection *connection = calloc(1, sizeof *connection);
    if (!connection) {
        stream_error_errno(stream, ENOMEM, "connect");
        return;
    }
    if (!take_address(connection, request)) {
        free(connection);
        stream_error(stream, "bad_request", "malformed fields, or no such address or port");
        return;
    }
    int fd = socket(connection->address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    connection->stream = stream;
    connection->socket = (struct watch){.fd = fd, .ready = socket_ready};
    connection->timer = (struct watch){.fd = -1, .ready = timer_ready};
    connection->deadline = uptime_us() + DEADLINE_MS * 1000ULL;
    sink_start(&connection->sink, stream, fd, true, input_ended);
    stream->state = connection;
    if (fd < 0)
        stream_error_errno(stream, errno, "socket");
    else
        attempt(connection);
}

static void connect_release(struct stream *stream)
{
    struct connection *connection = stream->state;
    if (!connection)
        return;
    sink_stop(&connection->sink);
    stop_timer(connection);
    loop_watch(&connection->socket, 0);
    if (connection->socket.fd >= 0)
        close(connection->socket.fd);
    free(connection);
}

const struct operation connect_operation = {
    .number = 10,
    .open = connect_open,
    .data = connect_data,
    .data_end = connect_data_end,
    .source_ended = connect_source_ended,
    .release = connect_release,
};
