/* Forked children that do an operation's work, and the pipes between them and the stream. */
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "program.h"

enum {
    PIPE_SIZE = 1024 * 1024, /* a child that waits for the disk shall not stop the channel, nor the reverse */
    PIPES = 4,
    HIGH = 16, /* above every descriptor that the child gets */
};

/* What a child leaves in its answer pipe, followed by RESULT's fields or the text of ERROR. */
struct answer {
    bool good;
    int error;     /* errno, or 0 when there is a code */
    char code[28]; /* "" = as errno says */
    uint32_t size;
};

struct worker {
    struct stream *stream;
    struct watch input;
    int answer;
    bool ended;
    int status;
    size_t start, end;       /* of what the pipe did not take yet */
    uint8_t waiting[WINDOW]; /* credit never lets more be under way */
};

/* ---- in the child ---- */

static struct answer answer;
static char refusal[700];

bool refuse(const char *code, const char *format, ...)
{
    va_list values;
    answer.error = 0;
    snprintf(answer.code, sizeof answer.code, "%s", code);
    va_start(values, format);
    vsnprintf(refusal, sizeof refusal, format, values);
    va_end(values);
    return false;
}

bool refuse_errno(int error, const char *what)
{
    answer.error = error ? error : EIO;
    snprintf(refusal, sizeof refusal, "%s", what);
    return false;
}

/* Other streams' pipes must not stay open because of us. */
static void take_ends(const int ends[PIPES])
{
    int high[PIPES];
    for (int i = 0; i < PIPES; i++)
        high[i] = ends[i] < 0 ? -1 : fcntl(ends[i], F_DUPFD, HIGH);
    for (int i = 0; i < PIPES; i++)
        if (high[i] < 0)
            close(WORKER_ANSWER + i);
        else if (dup2(high[i], WORKER_ANSWER + i) < 0)
            _exit(EMFILE);
    close_range(WORKER_ERROR + 1, ~0U, 0);
}

static void __attribute__((noreturn)) run(bool (*work)(const void *, struct writer *), const void *argument, const int ends[PIPES])
{
    static uint8_t bytes[FRAME_PAYLOAD_MAX];
    struct writer result = {.at = bytes, .size = sizeof bytes};
    take_ends(ends);
    answer.good = work(argument, &result);
    answer.size = answer.good ? (uint32_t)result.used : (uint32_t)strlen(refusal);
    write_whole(WORKER_ANSWER, &answer, sizeof answer);
    write_whole(WORKER_ANSWER, answer.good ? (const void *)bytes : refusal, answer.size);
    _exit(0);
}

/* ---- in the agent ---- */

/* Both ends of one pipe; ours (0 = the reading one) does not block. */
static bool make_pipe(int *ours, int *childs, int ours_at)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return false;
    fcntl(ends[0], F_SETPIPE_SZ, PIPE_SIZE);
    fcntl(ends[ours_at], F_SETFL, O_NONBLOCK);
    *ours = ends[ours_at];
    *childs = ends[1 - ours_at];
    return true;
}

static void close_ends(const int ends[PIPES])
{
    for (int i = 0; i < PIPES; i++)
        if (ends[i] >= 0)
            close(ends[i]);
}

static bool make_pipes(int ours[PIPES], int childs[PIPES], unsigned pipes)
{
    return make_pipe(&ours[0], &childs[0], 0) && (!(pipes & TAKES_INPUT) || make_pipe(&ours[1], &childs[1], 1)) &&
           (!(pipes & GIVES_OUTPUT) || make_pipe(&ours[2], &childs[2], 0)) && (!(pipes & GIVES_ERROR) || make_pipe(&ours[3], &childs[3], 0));
}

static void input_close(struct worker *worker)
{
    if (worker->input.fd < 0)
        return;
    loop_watch(&worker->input, 0);
    close(worker->input.fd);
    worker->input.fd = -1;
    stream_consumed(worker->stream, worker->end - worker->start);
    worker->start = worker->end = 0;
}

static void input_flush(struct worker *worker)
{
    while (worker->start < worker->end) {
        ssize_t done = write(worker->input.fd, worker->waiting + worker->start, worker->end - worker->start);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0 && errno == EAGAIN)
            break;
        if (done < 0) { /* it has ended: its answer is on the way */
            input_close(worker);
            return;
        }
        worker->start += (size_t)done;
        stream_consumed(worker->stream, (size_t)done);
    }
    bool waits = worker->start < worker->end;
    if (!waits)
        worker->start = worker->end = 0;
    if ((!waits && worker->stream->data_ended) || !loop_watch(&worker->input, waits ? EPOLLOUT : 0))
        input_close(worker);
}

static void input_ready(struct watch *watch)
{
    input_flush((struct worker *)((char *)watch - offsetof(struct worker, input)));
}

void worker_data(struct stream *stream, const uint8_t *bytes, size_t size)
{
    struct worker *worker = stream->state;
    if (worker->input.fd < 0) {
        stream_consumed(stream, size);
        return;
    }
    if (WINDOW - worker->end < size) {
        memmove(worker->waiting, worker->waiting + worker->start, worker->end - worker->start);
        worker->end -= worker->start;
        worker->start = 0;
    }
    memcpy(worker->waiting + worker->end, bytes, size);
    worker->end += size;
    input_flush(worker);
}

void worker_data_end(struct stream *stream)
{
    struct worker *worker = stream->state;
    if (worker->input.fd >= 0)
        input_flush(worker);
}

static bool read_answer(int fd, void *to, size_t size)
{
    return read(fd, to, size) == (ssize_t)size; /* all of it is in the pipe since its writer has ended */
}

static void send_answer(struct worker *worker)
{
    static uint8_t bytes[FRAME_PAYLOAD_MAX + 1];
    struct answer left = {0};
    if (!WIFEXITED(worker->status) || !read_answer(worker->answer, &left, sizeof left) || left.size > FRAME_PAYLOAD_MAX ||
        !read_answer(worker->answer, bytes, left.size)) {
        stream_error(worker->stream, "io", "a child of the guest's agent has crashed");
        return;
    }
    bytes[left.size] = 0;
    struct writer result = {.at = bytes, .size = sizeof bytes, .used = left.size};
    if (left.good)
        stream_result(worker->stream, &result);
    else if (left.error)
        stream_error_errno(worker->stream, left.error, (const char *)bytes);
    else
        stream_error(worker->stream, left.code, "%s", (const char *)bytes);
}

static void finish_if_over(struct worker *worker)
{
    if (worker->ended && !worker->stream->sources[0].active && !worker->stream->sources[1].active)
        send_answer(worker);
}

void worker_source_ended(struct stream *stream, uint8_t channel, int error)
{
    if (error)
        complain("channel %d of a worker: %s", channel, strerror(error));
    finish_if_over(stream->state);
}

void worker_reaped(struct stream *stream, int status)
{
    struct worker *worker = stream->state;
    worker->ended = true;
    worker->status = status;
    input_close(worker);
    finish_if_over(worker);
}

void worker_release(struct stream *stream)
{
    struct worker *worker = stream->state;
    if (!worker)
        return;
    loop_watch(&worker->input, 0);
    if (worker->input.fd >= 0)
        close(worker->input.fd);
    if (worker->answer >= 0)
        close(worker->answer);
    free(worker);
}

/* The sources take their descriptors over even when epoll refuses one of them. */
static bool start_sources(struct stream *stream, const int ours[PIPES])
{
    bool output = ours[2] < 0 || source_start(stream, 1, ours[2], false, UINT64_MAX);
    bool error = ours[3] < 0 || source_start(stream, 2, ours[3], false, UINT64_MAX);
    return output && error;
}

void worker_open(struct stream *stream, bool (*work)(const void *, struct writer *), const void *argument, unsigned pipes)
{
    int ours[PIPES] = {-1, -1, -1, -1}, childs[PIPES] = {-1, -1, -1, -1};
    struct worker *worker = calloc(1, sizeof *worker);
    pid_t pid = worker && make_pipes(ours, childs, pipes) ? fork() : -1;
    if (pid == 0)
        run(work, argument, childs);
    int error = worker ? errno : ENOMEM;
    close_ends(childs);
    if (pid < 0) {
        close_ends(ours);
        free(worker);
        stream_error_errno(stream, error, "start a worker");
        return;
    }
    worker->stream = stream;
    worker->answer = ours[0];
    worker->input = (struct watch){.fd = ours[1], .ready = input_ready};
    stream->state = worker;
    stream->pid = pid;
    if (!start_sources(stream, ours))
        stream_error(stream, "io", "epoll refuses another descriptor");
}
