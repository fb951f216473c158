/* The table of streams: dispatch of their frames, credit in both directions, and how they end. */
#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "channel.h"
#include "operations.h"
#include "program.h"
#include "session.h"

enum {
    LARGE_READ = 32 * 1024, /* whoever yields so much at once gets a larger pipe, if it is one */
    LARGE_PIPE = 256 * 1024,
};

static struct stream streams[STREAMS_MAX];

static struct stream *find_stream(uint32_t id)
{
    for (size_t i = 0; id && i < STREAMS_MAX; i++)
        if (streams[i].id == id)
            return &streams[i];
    return NULL;
}

static struct stream *free_place(void)
{
    for (size_t i = 0; i < STREAMS_MAX; i++)
        if (!streams[i].id)
            return &streams[i];
    return NULL;
}

static void source_stop(struct source *source)
{
    if (!source->active)
        return;
    loop_watch(&source->watch, 0);
    close(source->watch.fd);
    source->active = false;
}

/* The place becomes free; nothing of the stream may be used afterwards. */
static void stream_close(struct stream *stream)
{
    for (size_t i = 0; i < 2; i++)
        source_stop(&stream->sources[i]);
    if (stream->operation && stream->operation->release)
        stream->operation->release(stream);
    memset(stream, 0, sizeof *stream);
}

static void send_error(uint32_t id, const char *code, const char *message)
{
    uint8_t bytes[1024];
    struct writer writer = {.at = bytes, .size = sizeof bytes};
    put_text(&writer, 1, code);
    put_text(&writer, 2, message);
    channel_send(FRAME_ERROR, 0, id, bytes, writer.used);
}

void stream_result(struct stream *stream, const struct writer *fields)
{
    channel_send(FRAME_RESULT, 0, stream->id, fields ? fields->at : NULL, fields ? fields->used : 0);
    stream_close(stream);
}

void stream_error(struct stream *stream, const char *code, const char *format, ...)
{
    char message[768];
    va_list values;
    va_start(values, format);
    vsnprintf(message, sizeof message, format, values);
    va_end(values);
    send_error(stream->id, code, message);
    stream_close(stream);
}

static const char *code_of(int error)
{
    switch (error) {
    case ENOENT:
    case ENOTDIR:
        return "not_found";
    case EISDIR:
        return "not_a_file";
    case EACCES:
    case EPERM:
    case EROFS:
        return "permission";
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return "no_space";
    case ECONNREFUSED:
        return "refused";
    case ETIMEDOUT:
        return "timed_out";
    case EINVAL:
    case ENAMETOOLONG:
        return "bad_request";
    default:
        return "io";
    }
}

void stream_error_errno(struct stream *stream, int error, const char *what)
{
    stream_error(stream, code_of(error), "%s: %s", what, strerror(error));
}

/* ---- towards the guest ---- */

void stream_consumed(struct stream *stream, size_t size)
{
    stream->consumed += (uint32_t)size;
    if (stream->consumed < WINDOW_STEP || stream->data_ended)
        return;
    uint8_t grant[4];
    store_u32(grant, stream->consumed);
    stream->credit += stream->consumed;
    stream->consumed = 0;
    channel_send(FRAME_WINDOW, 0, stream->id, grant, sizeof grant);
}

static void cancel_stream(struct stream *stream)
{
    if (stream->operation->cancel)
        stream->operation->cancel(stream);
    stream_close(stream);
}

/* The host broke a rule: stop what runs and say so. */
static void refuse_stream(struct stream *stream, const char *code, const char *message)
{
    uint32_t id = stream->id;
    cancel_stream(stream);
    send_error(id, code, message);
}

static void handle_data(struct stream *stream, const struct frame *frame)
{
    if (frame->channel != 0 || stream->data_ended) {
        refuse_stream(stream, "bad_request", "data on a channel that is not open");
    } else if (frame->length > stream->credit) {
        refuse_stream(stream, "flow_control", "more data than was granted");
    } else {
        stream->credit -= frame->length;
        if (stream->operation->data)
            stream->operation->data(stream, frame->payload, frame->length);
        else
            stream_consumed(stream, frame->length);
    }
}

static void handle_data_end(struct stream *stream, const struct frame *frame)
{
    if (frame->channel != 0 || stream->data_ended) {
        refuse_stream(stream, "bad_request", "end of a channel that is not open");
        return;
    }
    stream->data_ended = true;
    if (stream->operation->data_end)
        stream->operation->data_end(stream);
}

static void handle_control(struct stream *stream, const struct frame *frame)
{
    struct fields request = fields_open(frame->payload, frame->length);
    if (request.malformed)
        refuse_stream(stream, "bad_request", "malformed fields");
    else if (stream->operation->control)
        stream->operation->control(stream, &request);
}

/* ---- from the guest ---- */

/* Epoll watches exactly what may be read now. False when the kernel refuses a new watch. */
static bool source_arm(struct source *source)
{
    bool wanted = source->active && !source->eager && source->credit;
    return loop_watch(&source->watch, wanted ? EPOLLIN : 0);
}

static void source_end(struct source *source, int error)
{
    struct stream *stream = source->stream;
    source_stop(source);
    if (!error)
        channel_send(FRAME_EOF, source->channel, stream->id, NULL, 0);
    stream->operation->source_ended(stream, source->channel, error);
}

/* Sends at most one frame of it. */
static void source_pump(struct source *source)
{
    if (!source->active || !source->credit || !channel_has_room())
        return;
    uint64_t want = source->credit < FRAME_PAYLOAD_MAX ? source->credit : FRAME_PAYLOAD_MAX;
    want = want < source->left ? want : source->left;
    uint8_t *room = channel_reserve(want);
    if (!room)
        return;
    ssize_t got = want ? read(source->watch.fd, room, want) : 0;
    int error = got < 0 ? errno : 0;
    if (error == EINTR || (error == EAGAIN && !source->eager))
        return;
    if (got > 0) {
        channel_commit(FRAME_DATA, source->channel, source->stream->id, (size_t)got);
        source->credit -= (uint32_t)got;
        source->left -= (uint64_t)got;
        if (got >= LARGE_READ && !source->enlarged)
            source->enlarged = fcntl(source->watch.fd, F_SETPIPE_SZ, LARGE_PIPE) != 0;
        source_arm(source);
    }
    if (got <= 0 || !source->left) /* EIO is how a terminal ends, EAGAIN how the rest of an ended process does */
        source_end(source, error == EAGAIN || error == EIO ? 0 : error);
}

static void source_ready(struct watch *watch)
{
    source_pump((struct source *)((char *)watch - offsetof(struct source, watch)));
}

bool source_start(struct stream *stream, uint8_t channel, int fd, bool eager, uint64_t left)
{
    struct source *source = &stream->sources[channel - 1];
    uint32_t credit = source->credit;
    *source = (struct source){
        .watch = {.fd = fd, .produces = true, .ready = source_ready},
        .stream = stream, .channel = channel, .active = true, .eager = eager, .credit = credit, .left = left,
    };
    return source_arm(source);
}

void source_finish(struct source *source, uint64_t left)
{
    if (!source->active)
        return;
    source->eager = true;
    source->left = left < source->left ? left : source->left;
    source_arm(source);
    if (left == 0)
        source_end(source, 0);
    else
        source_pump(source);
}

static void handle_window(struct stream *stream, const struct frame *frame)
{
    if (frame->length != 4 || frame->channel < 1 || frame->channel > 2) {
        refuse_stream(stream, "bad_request", "malformed window");
        return;
    }
    struct source *source = &stream->sources[frame->channel - 1];
    uint32_t grant = load_u32(frame->payload);
    source->credit = grant > UINT32_MAX - source->credit ? UINT32_MAX : source->credit + grant;
    if (!source_arm(source))
        refuse_stream(stream, "io", "epoll refuses another descriptor");
}

void streams_pump(void)
{
    for (size_t i = 0; i < STREAMS_MAX; i++)
        for (size_t j = 0; j < 2 && streams[i].id; j++)
            if (streams[i].sources[j].eager)
                source_pump(&streams[i].sources[j]);
}

bool streams_are_eager(void)
{
    if (!channel_has_room())
        return false;
    for (size_t i = 0; i < STREAMS_MAX; i++)
        for (size_t j = 0; j < 2 && streams[i].id; j++)
            if (streams[i].sources[j].active && streams[i].sources[j].eager && streams[i].sources[j].credit)
                return true;
    return false;
}

/* ---- beginning and end ---- */

static void handle_open(const struct frame *frame)
{
    struct fields request = fields_open(frame->payload, frame->length);
    const struct operation *operation = operation_find(fields_u32(&request, 1, 0));
    struct stream *stream = find_stream(frame->stream);
    if (stream) {
        refuse_stream(stream, "bad_request", "this stream is open already");
        return;
    }
    stream = free_place();
    if (request.malformed || !operation)
        send_error(frame->stream, "bad_request", request.malformed ? "malformed fields" : "unknown operation");
    else if (session_state() < STATE_READY && !operation->before_ready)
        send_error(frame->stream, "not_ready", "the guest is not configured");
    else if (!stream)
        send_error(frame->stream, "too_many_streams", "256 streams are open");
    else {
        stream->id = frame->stream;
        stream->operation = operation;
        stream->credit = WINDOW;
        stream->sources[0].credit = stream->sources[1].credit = WINDOW;
        operation->open(stream, &request);
    }
}

void streams_handle(const struct frame *frame)
{
    struct stream *stream = find_stream(frame->stream);
    if (frame->type == FRAME_OPEN && frame->stream)
        handle_open(frame);
    else if (!stream)
        return; /* it crossed with our RESULT */
    else if (frame->type == FRAME_DATA)
        handle_data(stream, frame);
    else if (frame->type == FRAME_EOF)
        handle_data_end(stream, frame);
    else if (frame->type == FRAME_WINDOW)
        handle_window(stream, frame);
    else if (frame->type == FRAME_CONTROL)
        handle_control(stream, frame);
    else if (frame->type == FRAME_CANCEL)
        cancel_stream(stream);
}

void streams_reaped(pid_t pid, int status)
{
    for (size_t i = 0; i < STREAMS_MAX; i++)
        if (streams[i].id && streams[i].pid == pid) {
            streams[i].pid = 0;
            streams[i].operation->reaped(&streams[i], status);
            return;
        }
}

void streams_cancel_all(void)
{
    for (size_t i = 0; i < STREAMS_MAX; i++)
        if (streams[i].id)
            cancel_stream(&streams[i]);
}
