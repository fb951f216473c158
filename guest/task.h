/* Work that may take long, done in a forked child so that the loop goes on. */
#ifndef TASK_H
#define TASK_H

#include <stdbool.h>

#include "fields.h"
#include "stream.h"

/* Runs `work` in a child whose only descriptors are stdio and `keep` (-1 = none; passed on as `fd`). It returns an errno
 * or 0 and may put fields of the RESULT. stream->pid is set. Returns the descriptor for task_answer, -1 (errno) on failure. */
int task_begin(struct stream *stream, int (*work)(void *argument, int fd, struct writer *result), void *argument, int keep);

/* Ends the stream with what the child left: RESULT, or ERROR with "what: ...". */
void task_answer(struct stream *stream, int descriptor, int status, const char *what);

/* For operations that are nothing but a task: their `open` with no argument, their `reaped` and their `release`. */
void task_open(struct stream *stream, int (*work)(void *argument, int fd, struct writer *result));
void task_reaped(struct stream *stream, int status);
void task_release(struct stream *stream);

#endif
