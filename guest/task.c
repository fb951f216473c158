/* Running one function in a forked child and answering a stream with its outcome. */
#include "task.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "frame.h"
#include "program.h"

enum {
    RESULT_PIPE = 128 * 1024, /* holds any RESULT, so the child never waits for us */
    ANSWER = 3,
    KEPT = 4,
};

static void run(int (*work)(void *, int, struct writer *), void *argument, int keep, int answer)
{
    static uint8_t bytes[FRAME_PAYLOAD_MAX];
    struct writer result = {.at = bytes, .size = sizeof bytes};
    /* Other streams' pipes must not stay open because of us. */
    int high = fcntl(answer, F_DUPFD, 8), kept = keep < 0 ? -1 : fcntl(keep, F_DUPFD, 8);
    if (high < 0 || (keep >= 0 && kept < 0) || dup2(high, ANSWER) < 0 || (keep >= 0 && dup2(kept, KEPT) < 0))
        _exit(EMFILE);
    close_range(keep < 0 ? KEPT : KEPT + 1, ~0U, 0);
    int error = work(argument, KEPT, &result);
    if (!error && !write_whole(ANSWER, bytes, result.used))
        error = errno;
    _exit(error);
}

int task_begin(struct stream *stream, int (*work)(void *, int, struct writer *), void *argument, int keep)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -1;
    fcntl(ends[1], F_SETPIPE_SZ, RESULT_PIPE);
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    pid_t pid = fork();
    if (pid == 0)
        run(work, argument, keep, ends[1]);
    int error = errno;
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        errno = error;
        return -1;
    }
    stream->pid = pid;
    return ends[0];
}

void task_answer(struct stream *stream, int descriptor, int status, const char *what)
{
    static uint8_t bytes[FRAME_PAYLOAD_MAX];
    struct writer result = {.at = bytes, .size = sizeof bytes};
    ssize_t got = read(descriptor, bytes, sizeof bytes);
    result.used = got > 0 ? (size_t)got : 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        stream_result(stream, &result);
    else
        stream_error_errno(stream, WIFEXITED(status) ? WEXITSTATUS(status) : EIO, what);
}

struct task {
    int answer;
};

void task_open(struct stream *stream, int (*work)(void *, int, struct writer *))
{
    struct task *task = malloc(sizeof *task);
    stream->state = task;
    if (task)
        task->answer = task_begin(stream, work, NULL, -1);
    if (!task || task->answer < 0)
        stream_error_errno(stream, task ? errno : ENOMEM, "start a task");
}

void task_reaped(struct stream *stream, int status)
{
    const struct task *task = stream->state;
    task_answer(stream, task->answer, status, "task");
}

void task_release(struct stream *stream)
{
    struct task *task = stream->state;
    if (task && task->answer >= 0)
        close(task->answer);
    free(task);
}
