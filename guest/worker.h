/* Operations whose work is done in a forked child, with the stream's channels as pipes: disks may be slow, the loop may not. */
#ifndef WORKER_H
#define WORKER_H

#include <stdbool.h>

#include "fields.h"
#include "stream.h"

/* The child's descriptors beside stdio, and which of them it gets. */
enum { WORKER_ANSWER = 3, WORKER_INPUT = 4, WORKER_OUTPUT = 5, WORKER_ERROR = 6 };
enum { TAKES_INPUT = 1, GIVES_OUTPUT = 2, GIVES_ERROR = 4 };

/* Runs `work` in a child, which sees the agent's memory as it was. It fills RESULT and returns true, or false after refuse().
 * A cancelled stream closes the pipes: the child then finds its input at an end or its output broken. */
void worker_open(struct stream *stream, bool (*work)(const void *argument, struct writer *result), const void *argument, unsigned pipes);

/* In the child: why there is no RESULT. Both return false; the second picks the code that fits an errno. */
bool refuse(const char *code, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool refuse_errno(int error, const char *what);

/* The rest of such an operation. */
void worker_data(struct stream *stream, const uint8_t *bytes, size_t size);
void worker_data_end(struct stream *stream);
void worker_reaped(struct stream *stream, int status);
void worker_source_ended(struct stream *stream, uint8_t channel, int error);
void worker_release(struct stream *stream);

#define WORKER_OPERATION                                                                                                                             \
    .data = worker_data, .data_end = worker_data_end, .reaped = worker_reaped, .source_ended = worker_source_ended, .release = worker_release

#endif
