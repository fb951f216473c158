/* The operation exec: one process, its three byte streams, its signals and its end. */
#include "exec.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "channel.h"
#include "operations.h"
#include "program.h"
#include "sink.h"

enum {
    TERMINAL_REST = 1024 * 1024, /* at most so much is read from a terminal after its process has ended */
    KIND_EXITED = 0,
    KIND_KILLED = 1,
    KIND_NOT_STARTED = 2,
};

struct exec {
    struct stream *stream;
    struct process process;
    struct watch status;
    struct sink input; /* its descriptor is ours; -1 once it is closed */
    bool tty, runs, ended;
    int wait_status;
};

/* ---- signals ---- */

static void send_signal(struct exec *exec, int number)
{
    pid_t pid = exec->stream->pid; /* 0 once it is reaped */
    if (pid > 0 && kill(-pid, number) < 0 && errno == ESRCH)
        kill(pid, number); /* it has not made its session yet */
}

static void hang_up(struct exec *exec)
{
    send_signal(exec, SIGHUP);
    send_signal(exec, SIGCONT);
}

/* ---- channel 0 ---- */

static void input_ended(struct sink *sink, int error)
{
    struct exec *exec = (struct exec *)((char *)sink - offsetof(struct exec, input));
    if (error && error != EPIPE && error != EIO)
        complain("input of process %d: %s", exec->process.pid, strerror(error));
    if (!exec->tty) { /* a terminal's master is needed until the end */
        close(sink->watch.fd);
        sink->watch.fd = -1;
    }
}

static void exec_data(struct stream *stream, const uint8_t *bytes, size_t size)
{
    struct exec *exec = stream->state;
    sink_put(&exec->input, bytes, size);
}

/* A terminal has no end; its end-of-file character says the same to whoever reads it. */
static void exec_data_end(struct stream *stream)
{
    struct exec *exec = stream->state;
    struct termios modes;
    if (exec->input.open && exec->tty && tcgetattr(exec->input.watch.fd, &modes) == 0)
        sink_append(&exec->input, &modes.c_cc[VEOF], 1);
    sink_flush(&exec->input);
}

/* ---- beginning and end ---- */

static void send_outcome(struct exec *exec, uint8_t kind, uint32_t number, const char *message)
{
    uint8_t bytes[1024];
    struct writer result = {.at = bytes, .size = sizeof bytes};
    put_u8(&result, 16, kind);
    put_u32(&result, 17, number);
    put_text(&result, 18, message);
    stream_result(exec->stream, &result);
}

static void finish_if_over(struct exec *exec)
{
    struct stream *stream = exec->stream;
    if (!exec->ended || stream->sources[0].active || stream->sources[1].active)
        return;
    if (exec->tty)
        channel_send(FRAME_EOF, 2, stream->id, NULL, 0);
    if (WIFSIGNALED(exec->wait_status))
        send_outcome(exec, KIND_KILLED, (uint32_t)WTERMSIG(exec->wait_status), "");
    else
        send_outcome(exec, KIND_EXITED, (uint32_t)WEXITSTATUS(exec->wait_status), "");
}

static void exec_source_ended(struct stream *stream, uint8_t channel, int error)
{
    if (error) {
        complain("output of process %d: %s", stream->pid, strerror(error));
        channel_send(FRAME_EOF, channel, stream->id, NULL, 0);
    }
    finish_if_over(stream->state);
}

static void not_started(struct exec *exec, const struct start_failure *why)
{
    char message[700];
    snprintf(message, sizeof message, "%.499s: %s", why->what, strerror(why->error));
    exec->stream->pid = 0; /* reaped without us */
    send_outcome(exec, KIND_NOT_STARTED, (uint32_t)why->error, message);
}

/* Takes over the descriptors; they are the sources' to close even when this fails. */
static bool start_sources(struct exec *exec)
{
    int output = exec->process.output, error = exec->process.error;
    exec->process.output = exec->process.error = -1;
    bool watched = source_start(exec->stream, 1, output, false, UINT64_MAX);
    return (exec->tty || source_start(exec->stream, 2, error, false, UINT64_MAX)) && watched;
}

static void say_opened(struct exec *exec)
{
    uint8_t bytes[16];
    struct writer fields = {.at = bytes, .size = sizeof bytes};
    put_u32(&fields, 1, (uint32_t)exec->process.pid);
    exec->runs = true;
    channel_send(FRAME_OPENED, 0, exec->stream->id, bytes, fields.used);
    if (!start_sources(exec)) {
        hang_up(exec);
        stream_error(exec->stream, "io", "epoll refuses another descriptor");
    }
}

/* The status pipe ends when the program runs, or says why it does not. */
static void status_ready(struct watch *watch)
{
    struct exec *exec = (struct exec *)((char *)watch - offsetof(struct exec, status));
    struct start_failure why;
    ssize_t got = read(watch->fd, &why, sizeof why);
    if (got < 0)
        return;
    loop_watch(watch, 0);
    close(watch->fd);
    watch->fd = -1;
    if (got == sizeof why)
        not_started(exec, &why);
    else
        say_opened(exec);
}

/* The process has ended before its status was looked at. False when that was the end of the stream. */
static bool settle_start(struct stream *stream, struct exec *exec)
{
    if (!exec->runs)
        status_ready(&exec->status);
    if (stream->state == exec && !exec->runs) { /* another child holds the other end for a moment */
        loop_watch(&exec->status, 0);
        close(exec->status.fd);
        exec->status.fd = -1;
        say_opened(exec);
    }
    return stream->state == exec;
}

/* What can be read now, without waiting for others who may write there too. */
static uint64_t readable_now(const struct source *source)
{
    int size = 0;
    return source->active && ioctl(source->watch.fd, FIONREAD, &size) == 0 && size > 0 ? (uint64_t)size : 0;
}

static void exec_reaped(struct stream *stream, int status)
{
    struct exec *exec = stream->state;
    exec->wait_status = status;
    if (!settle_start(stream, exec))
        return;
    uint64_t output = exec->tty ? TERMINAL_REST : readable_now(&stream->sources[0]);
    uint64_t error = readable_now(&stream->sources[1]);
    source_finish(&stream->sources[0], output);
    source_finish(&stream->sources[1], error);
    exec->ended = true; /* only now, because the last source to end would end the stream */
    finish_if_over(exec);
}

static void exec_open(struct stream *stream, struct fields *request)
{
    struct plan plan;
    const char *code;
    struct exec *exec = calloc(1, sizeof *exec);
    if (!exec || !plan_make(&plan, request, &code)) {
        if (exec)
            plan_free(&plan);
        free(exec);
        stream_error(stream, exec ? code : "io", "%s", exec ? failure() : "out of memory");
        return;
    }
    *exec = (struct exec){.stream = stream, .tty = plan.tty};
    bool spawned = spawn(&plan, &exec->process);
    int error = errno;
    plan_free(&plan);
    if (!spawned) {
        free(exec);
        stream_error_errno(stream, error, "start a process");
        return;
    }
    stream->state = exec;
    stream->pid = exec->process.pid;
    exec->status = (struct watch){.fd = exec->process.status, .ready = status_ready};
    sink_start(&exec->input, stream, exec->process.input, false, input_ended);
    if (!loop_watch(&exec->status, EPOLLIN)) {
        hang_up(exec);
        stream_error(stream, "io", "epoll refuses another descriptor");
    }
}

static void exec_control(struct stream *stream, struct fields *request)
{
    struct exec *exec = stream->state;
    uint32_t number = fields_u32(request, 1, 0);
    uint32_t rows = fields_u32(request, 2, 0), columns = fields_u32(request, 3, 0);
    if (request->malformed || number >= NSIG) {
        hang_up(exec);
        stream_error(stream, "bad_request", "malformed control");
        return;
    }
    if (number)
        send_signal(exec, (int)number);
    struct winsize size = {.ws_row = (uint16_t)rows, .ws_col = (uint16_t)columns};
    if (exec->tty && rows && columns)
        ioctl(exec->input.watch.fd, TIOCSWINSZ, &size);
}

static void exec_cancel(struct stream *stream)
{
    hang_up(stream->state);
}

static void exec_release(struct stream *stream)
{
    struct exec *exec = stream->state;
    if (!exec)
        return;
    loop_watch(&exec->status, 0);
    sink_stop(&exec->input);
    const int descriptors[] = {exec->status.fd, exec->input.watch.fd, exec->process.output, exec->process.error};
    for (size_t i = 0; i < sizeof descriptors / sizeof *descriptors; i++)
        if (descriptors[i] >= 0)
            close(descriptors[i]);
    free(exec);
}

const struct operation exec_operation = {
    .number = 2,
    .open = exec_open,
    .data = exec_data,
    .data_end = exec_data_end,
    .control = exec_control,
    .reaped = exec_reaped,
    .source_ended = exec_source_ended,
    .cancel = exec_cancel,
    .release = exec_release,
};
