/* Streams: the operations in progress, their flow control and their ends. */
#ifndef STREAM_H
#define STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "fields.h"
#include "frame.h"
#include "loop.h"

enum {
    STREAMS_MAX = 256,
    WINDOW = 262144,
    WINDOW_STEP = WINDOW / 4,
};

struct stream;

/* One of the protocol's operations. Every function but `open` may be absent. */
struct operation {
    uint32_t number;
    bool before_ready; /* allowed while the guest is not configured */
    /* Begins it. Answers with stream_error or stream_result itself when it is over at once. */
    void (*open)(struct stream *stream, struct fields *request);
    /* Bytes of channel 0, within credit; stream_consumed says when they are gone. Without it they are discarded. */
    void (*data)(struct stream *stream, const uint8_t *bytes, size_t size);
    void (*data_end)(struct stream *stream);
    void (*control)(struct stream *stream, struct fields *request);
    /* The process stream->pid has ended with this wait status. */
    void (*reaped)(struct stream *stream, int status);
    /* Channel 1 or 2 has ended: EOF is sent already, or `error` is an errno. */
    void (*source_ended)(struct stream *stream, uint8_t channel, int error);
    /* The host wants no more: stop what runs. `release` follows. */
    void (*cancel)(struct stream *stream);
    /* Frees stream->state; called exactly once for every stream that was opened. */
    void (*release)(struct stream *stream);
};

/* Something readable whose bytes become DATA of one channel. */
struct source {
    struct watch watch;
    struct stream *stream;
    uint8_t channel;
    bool active;
    bool enlarged; /* its pipe, or tried */
    bool eager;    /* read without waiting for epoll: a regular file, or what an ended process left behind */
    uint32_t credit;
    uint64_t left; /* so many bytes at most */
};

struct stream {
    uint32_t id; /* 0 = this place is free */
    const struct operation *operation;
    void *state;
    pid_t pid;
    uint32_t credit;   /* what the host may still send on channel 0 */
    uint32_t consumed; /* of that, gone but not yet given back */
    bool data_ended;
    struct source sources[2]; /* channels 1 and 2 */
};

/* Frames with a stream id. */
void streams_handle(const struct frame *frame);
/* A child of this process was reaped. */
void streams_reaped(pid_t pid, int status);
/* Gives every eager source one turn; channel_has_room permitting. */
void streams_pump(void);
/* Whether streams_pump would find something to do. */
bool streams_are_eager(void);
/* Ends all, as by CANCEL. */
void streams_cancel_all(void);

/* For operations. The first two end the stream: it must not be touched afterwards. */
void stream_result(struct stream *stream, const struct writer *fields);
void stream_error(struct stream *stream, const char *code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* stream_error with the code that fits an errno; the message is "what: text of errno". */
void stream_error_errno(struct stream *stream, int error, const char *what);
void stream_consumed(struct stream *stream, size_t size);
/* Starts sending what `fd` (taken over) yields, at most `left` bytes of it. */
bool source_start(struct stream *stream, uint8_t channel, int fd, bool eager, uint64_t left);
/* From now on: what can be read at once and no more than `left`, then the end. */
void source_finish(struct source *source, uint64_t left);

#endif
