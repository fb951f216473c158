/* Sinks: what takes the bytes that the host sends on channel 0. */
#ifndef SINK_H
#define SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "loop.h"
#include "stream.h"

/* Bytes that the sink has not taken yet: `start` to `end`. Credit keeps them within WINDOW. */
struct backlog {
    uint8_t *bytes;
    size_t start, end, size;
};

/* Something writable. */
struct sink {
    struct watch watch;
    struct stream *stream;
    struct backlog backlog;
    bool open;     /* takes bytes; else they are discarded */
    bool held;     /* keeps them until sink_release */
    bool enlarged; /* its pipe, or tried */
    /* It takes no more: all is written after the end of channel 0, or `error` is an errno. Called once; it may end the stream. */
    void (*ended)(struct sink *sink, int error);
};

/* `fd` (non-blocking; -1 = discard everything) stays the caller's to close. */
void sink_start(struct sink *sink, struct stream *stream, int fd, bool held, void (*ended)(struct sink *sink, int error));
/* From now on bytes are written. The stream may have ended when this, or one of the next two, returns. */
void sink_release(struct sink *sink);
void sink_put(struct sink *sink, const uint8_t *bytes, size_t size);
/* Writes what waits, and ends once stream->data_ended and nothing waits. */
void sink_flush(struct sink *sink);
/* Adds to what waits, outside of any credit; false when memory is short. */
bool sink_append(struct sink *sink, const uint8_t *bytes, size_t size);
/* Frees what it has, without calling `ended`. */
void sink_stop(struct sink *sink);

#endif
