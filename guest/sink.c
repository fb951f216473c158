/* Writing channel 0 to a descriptor that takes as much as it likes, and giving credit back for that. */
#include "sink.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "frame.h"

enum { LARGE_PIPE = 256 * 1024 };

void sink_stop(struct sink *sink)
{
    loop_watch(&sink->watch, 0);
    free(sink->backlog.bytes);
    sink->backlog = (struct backlog){0};
    sink->open = false;
}

static void sink_end(struct sink *sink, int error)
{
    stream_consumed(sink->stream, sink->backlog.end - sink->backlog.start);
    sink_stop(sink);
    sink->ended(sink, error);
}

/* How much is taken now; -1 (errno) when no more will be for ever. */
static ssize_t write_now(struct sink *sink, const uint8_t *bytes, size_t size)
{
    ssize_t done = write(sink->watch.fd, bytes, size);
    if (done < 0)
        done = errno == EAGAIN || errno == EINTR ? 0 : -1;
    if (done >= 0 && (size_t)done < size && !sink->enlarged) {
        sink->enlarged = true;
        fcntl(sink->watch.fd, F_SETPIPE_SZ, LARGE_PIPE); /* does nothing to what is no pipe */
    }
    return done;
}

bool sink_append(struct sink *sink, const uint8_t *bytes, size_t size)
{
    struct backlog *backlog = &sink->backlog;
    if (backlog->size - backlog->end < size && backlog->start) {
        memmove(backlog->bytes, backlog->bytes + backlog->start, backlog->end - backlog->start);
        backlog->end -= backlog->start;
        backlog->start = 0;
    }
    if (backlog->size - backlog->end < size) {
        size_t larger = backlog->end + size + FRAME_PAYLOAD_MAX;
        uint8_t *moved = realloc(backlog->bytes, larger);
        if (!moved)
            return false;
        backlog->bytes = moved;
        backlog->size = larger;
    }
    memcpy(backlog->bytes + backlog->end, bytes, size);
    backlog->end += size;
    return true;
}

void sink_flush(struct sink *sink)
{
    struct backlog *backlog = &sink->backlog;
    if (!sink->open || sink->held)
        return;
    if (backlog->start < backlog->end) {
        ssize_t done = write_now(sink, backlog->bytes + backlog->start, backlog->end - backlog->start);
        if (done < 0) {
            sink_end(sink, errno);
            return;
        }
        backlog->start += (size_t)done;
        stream_consumed(sink->stream, (size_t)done);
    }
    if (backlog->start == backlog->end) {
        if (sink->stream->data_ended) {
            sink_end(sink, 0);
            return;
        }
        free(backlog->bytes);
        *backlog = (struct backlog){0};
    }
    if (!loop_watch(&sink->watch, backlog->bytes ? EPOLLOUT : 0))
        sink_end(sink, ENOSPC); /* what epoll says when there are too many watches */
}

static void sink_ready(struct watch *watch)
{
    sink_flush((struct sink *)((char *)watch - offsetof(struct sink, watch)));
}

void sink_start(struct sink *sink, struct stream *stream, int fd, bool held, void (*ended)(struct sink *sink, int error))
{
    *sink = (struct sink){
        .watch = {.fd = fd, .ready = sink_ready}, .stream = stream, .open = fd >= 0, .held = held, .ended = ended,
    };
}

void sink_release(struct sink *sink)
{
    sink->held = false;
    sink_flush(sink);
}

void sink_put(struct sink *sink, const uint8_t *bytes, size_t size)
{
    ssize_t done = 0;
    if (sink->open && !sink->held && !sink->backlog.bytes && size)
        done = write_now(sink, bytes, size);
    if (done < 0 || !sink->open) {
        int error = errno;
        stream_consumed(sink->stream, size);
        if (sink->open)
            sink_end(sink, error);
        return;
    }
    stream_consumed(sink->stream, (size_t)done);
    if ((size_t)done == size)
        return;
    if (!sink_append(sink, bytes + done, size - (size_t)done))
        sink_end(sink, ENOMEM);
    else if (!sink->held && !loop_watch(&sink->watch, EPOLLOUT))
        sink_end(sink, ENOSPC);
}
