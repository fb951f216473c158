/* The operations read, write and sync. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "channel.h"
#include "operations.h"
#include "program.h"
#include "task.h"
#include "tree.h"

/* The field 16 of both requests; answers the stream itself and returns false when it is no good. */
static bool take_path(struct stream *stream, struct fields *request, char path[PATH_MAX])
{
    char *text = fields_text(request, 16);
    bool good = text && !request->malformed && rooted(text, path, PATH_MAX);
    free(text);
    if (!good)
        stream_error(stream, "bad_request", "malformed fields or no absolute path");
    return good;
}

/* ---- read ---- */

struct reading {
    struct stat status;
};

static void read_open(struct stream *stream, struct fields *request)
{
    char path[PATH_MAX];
    if (!take_path(stream, request, path))
        return;
    struct reading *reading = calloc(1, sizeof *reading);
    stream->state = reading;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (!reading || fd < 0 || fstat(fd, &reading->status) < 0) {
        int error = reading ? errno : ENOMEM;
        if (fd >= 0)
            close(fd);
        stream_error_errno(stream, error, path);
    } else if (!S_ISREG(reading->status.st_mode)) {
        close(fd);
        stream_error(stream, "not_a_file", "%s is not a regular file", path);
    } else {
        source_start(stream, 1, fd, true, UINT64_MAX);
    }
}

static void read_ended(struct stream *stream, uint8_t channel, int error)
{
    const struct reading *reading = stream->state;
    if (error) {
        stream_error_errno(stream, error, "read");
        return;
    }
    uint8_t bytes[64];
    struct writer result = {.at = bytes, .size = sizeof bytes};
    put_u64(&result, 16, UINT64_MAX - stream->sources[channel - 1].left);
    put_u32(&result, 17, reading->status.st_mode & 07777);
    put_u32(&result, 18, reading->status.st_uid);
    put_u32(&result, 19, reading->status.st_gid);
    stream_result(stream, &result);
}

static void free_state(struct stream *stream)
{
    free(stream->state);
}

const struct operation read_operation = {
    .number = 3,
    .open = read_open,
    .source_ended = read_ended,
    .release = free_state,
};

/* ---- write ---- */

struct writing {
    char path[PATH_MAX], temporary[PATH_MAX];
    struct attributes attributes;
    int fd;     /* -1 once it is handed to the task */
    int answer; /* the task's, -1 before */
    uint64_t size;
};

/* Opens the temporary file; false (errno). */
static bool begin_writing(struct writing *writing, bool parents)
{
    struct attributes directory = writing->attributes;
    struct stat status;
    directory.mode = 0755;
    if (parents && !make_directories(writing->path, &directory, false))
        return false;
    if (stat(writing->path, &status) == 0 && S_ISDIR(status.st_mode)) {
        errno = EISDIR;
        return false;
    }
    writing->fd = create_beside(writing->path, writing->temporary, sizeof writing->temporary);
    return writing->fd >= 0;
}

static void write_open(struct stream *stream, struct fields *request)
{
    char path[PATH_MAX];
    struct attributes attributes = {
        .mode = fields_u32(request, 17, 0644) & 07777,
        .uid = fields_u32(request, 18, 0),
        .gid = fields_u32(request, 19, 0),
    };
    bool parents = fields_u8(request, 20, 0);
    if (!take_path(stream, request, path))
        return;
    struct writing *writing = calloc(1, sizeof *writing);
    if (!writing) {
        stream_error_errno(stream, ENOMEM, path);
        return;
    }
    stream->state = writing;
    writing->attributes = attributes;
    writing->fd = writing->answer = -1;
    memcpy(writing->path, path, sizeof path);
    if (!begin_writing(writing, parents))
        stream_error_errno(stream, errno, path);
}

static void write_data(struct stream *stream, const uint8_t *bytes, size_t size)
{
    struct writing *writing = stream->state;
    if (!write_whole(writing->fd, bytes, size)) {
        stream_error_errno(stream, errno, writing->path);
        return;
    }
    writing->size += size;
    stream_consumed(stream, size);
}

/* In a child: flushing a large file takes its time. */
static int finish_writing(void *argument, int fd, struct writer *result)
{
    const struct writing *writing = argument;
    if (!install_file(fd, writing->temporary, writing->path, &writing->attributes, true))
        return errno;
    put_u64(result, 16, writing->size);
    return 0;
}

static void write_data_end(struct stream *stream)
{
    struct writing *writing = stream->state;
    writing->answer = task_begin(stream, finish_writing, writing, writing->fd);
    if (writing->answer < 0) {
        stream_error_errno(stream, errno, writing->path);
        return;
    }
    close(writing->fd);
    writing->fd = -1;
}

static void write_reaped(struct stream *stream, int status)
{
    const struct writing *writing = stream->state;
    task_answer(stream, writing->answer, status, writing->path);
}

static void write_release(struct stream *stream)
{
    struct writing *writing = stream->state;
    if (!writing)
        return;
    if (writing->fd >= 0) { /* given up before the end */
        close(writing->fd);
        unlink(writing->temporary);
    }
    if (writing->answer >= 0)
        close(writing->answer);
    free(writing);
}

const struct operation write_operation = {
    .number = 4,
    .open = write_open,
    .data = write_data,
    .data_end = write_data_end,
    .reaped = write_reaped,
    .release = write_release,
};

/* ---- sync ---- */

static int flush_all(void *argument, int fd, struct writer *result)
{
    (void)argument, (void)fd, (void)result;
    sync();
    return 0;
}

static void sync_open(struct stream *stream, struct fields *request)
{
    (void)request;
    task_open(stream, flush_all);
}

const struct operation sync_operation = {
    .number = 9,
    .open = sync_open,
    .reaped = task_reaped,
    .release = task_release,
};
