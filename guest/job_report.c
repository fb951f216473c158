/* The operations job_list and job_output: what is known of jobs, and what they wrote. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "channel.h"
#include "job.h"
#include "operations.h"
#include "program.h"
#include "worker.h"

enum { LISTED_COMMAND_MAX = 80, PIECE = 128 * 1024 };

/* ---- job_list ---- */

static uint64_t size_of(const char *id, const char *file)
{
    char place[PATH_MAX];
    struct stat status;
    job_path(place, sizeof place, id, file);
    return stat(place, &status) == 0 ? (uint64_t)status.st_size : 0;
}

static void copy_field(struct writer *to, const struct fields *from, uint16_t tag, size_t most)
{
    struct bytes value = fields_bytes(from, tag);
    if (fields_has(from, tag))
        put_bytes(to, tag, value.at, value.size < most ? value.size : most);
}

static void put_end(struct writer *job, const char *id)
{
    struct fields end;
    char *bytes = job_read(id, "status", &end);
    put_u8(job, JOB_STATE, bytes ? JOB_OVER : job_is_running(id) ? JOB_RUNNING : JOB_LOST);
    if (!bytes)
        return;
    const uint16_t tags[] = {JOB_KIND, JOB_NUMBER, JOB_ENDED, JOB_TRUNCATED};
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++)
        copy_field(job, &end, tags[i], 8);
    free(bytes);
}

/* False when there is no such job. */
static bool put_job(struct writer *result, const char *id, size_t command_most)
{
    uint8_t bytes[8192];
    struct writer job = {.at = bytes, .size = sizeof bytes};
    struct fields beginning;
    char *text = job_read(id, "command", &beginning);
    if (!text)
        return false;
    const uint16_t tags[] = {JOB_ID, JOB_PID, JOB_STARTED};
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++)
        copy_field(&job, &beginning, tags[i], JOB_ID_MAX);
    copy_field(&job, &beginning, JOB_COMMAND, command_most);
    copy_field(&job, &beginning, JOB_USER, 64);
    free(text);
    put_end(&job, id);
    put_u64(&job, JOB_STDOUT_SIZE, size_of(id, "stdout"));
    put_u64(&job, JOB_STDERR_SIZE, size_of(id, "stderr"));
    put_bytes(result, 16, bytes, job.used);
    return true;
}

static bool list_jobs(const void *argument, struct writer *result)
{
    const char *wanted = argument;
    char place[PATH_MAX];
    if (wanted[0])
        return put_job(result, wanted, sizeof place) || refuse("not_found", "no job %s", wanted);
    job_path(place, sizeof place, "", "");
    DIR *list = opendir(place);
    const struct dirent *one;
    while (list && (one = readdir(list)))
        if (one->d_name[0] != '.')
            put_job(result, one->d_name, LISTED_COMMAND_MAX);
    if (list)
        closedir(list);
    return true;
}

static void job_list_open(struct stream *stream, struct fields *request)
{
    static char id[JOB_ID_MAX + 1];
    id[0] = 0;
    if (fields_has(request, JOB_REQUESTED) && !job_take_id(request, id))
        stream_error(stream, "bad_request", "malformed job id");
    else
        worker_open(stream, list_jobs, id, 0);
}

const struct operation job_list_operation = {.number = 16, .open = job_list_open, WORKER_OPERATION};

/* ---- job_output ---- */

struct wish {
    char id[JOB_ID_MAX + 1];
    uint8_t which; /* 1 stdout, 2 stderr, 3 both, 0 only the end */
    bool follow;
    uint64_t offset;
};

static bool exists(const char *id, const char *file)
{
    char place[PATH_MAX];
    job_path(place, sizeof place, id, file);
    return access(place, F_OK) == 0;
}

static int open_output(const struct wish *wish, int bit, const char *file)
{
    char place[PATH_MAX];
    job_path(place, sizeof place, wish->id, file);
    int fd = wish->which & bit ? open(place, O_RDONLY | O_NOFOLLOW | O_CLOEXEC) : -1;
    if (fd >= 0)
        lseek(fd, (off_t)wish->offset, SEEK_SET);
    return fd;
}

/* Sends what is there now. False when nobody wants it any more. */
static bool send_output(int from, int to)
{
    static uint8_t piece[PIECE];
    ssize_t got;
    while (from >= 0 && (got = read(from, piece, sizeof piece)) > 0)
        if (!write_whole(to, piece, (size_t)got))
            return false;
    return true;
}

/* Waits until something changes in the job's directory. False when the reader has gone. */
static bool await_change(int changes)
{
    char events[4096];
    struct pollfd polled[] = {{.fd = changes, .events = POLLIN}, {.fd = WORKER_OUTPUT}};
    while (poll(polled, 2, -1) < 0)
        ;
    return !polled[1].revents && read(changes, events, sizeof events) > 0;
}

static int watch_directory(const char *id)
{
    char place[PATH_MAX];
    int changes = inotify_init1(IN_CLOEXEC);
    job_path(place, sizeof place, id, "");
    if (changes >= 0)
        inotify_add_watch(changes, place, IN_MODIFY | IN_CREATE | IN_DELETE_SELF);
    return changes;
}

/* As exec's RESULT, so that whoever waits can end like the job. */
static void put_outcome(const struct wish *wish, struct writer *result)
{
    struct fields end;
    char *bytes = job_read(wish->id, "status", &end);
    enum job_state state = bytes ? JOB_OVER : job_is_running(wish->id) ? JOB_RUNNING : JOB_LOST;
    put_u8(result, 16, bytes ? fields_u8(&end, JOB_KIND, JOB_EXITED) : state == JOB_LOST ? JOB_KILLED : JOB_EXITED);
    put_u32(result, 17, bytes ? fields_u32(&end, JOB_NUMBER, 0) : state == JOB_LOST ? SIGKILL : 0);
    put_text(result, 18, state == JOB_LOST ? "the machine went down while the job ran" : "");
    put_u8(result, 20, (uint8_t)state);
    free(bytes);
}

static bool put_out(const void *argument, struct writer *result)
{
    const struct wish *wish = argument;
    int changes = watch_directory(wish->id);
    int output = open_output(wish, 1, "stdout"), error = open_output(wish, 2, "stderr");
    int second = wish->which == 3 ? WORKER_ERROR : WORKER_OUTPUT;
    if (!exists(wish->id, "command"))
        return refuse("not_found", "no job %s", wish->id);
    for (;;) {
        bool over = !wish->follow || !job_is_running(wish->id) || exists(wish->id, "status") || !exists(wish->id, "command");
        if (!send_output(output, WORKER_OUTPUT) || !send_output(error, second) || (!over && !await_change(changes)))
            return refuse("io", "nobody reads");
        if (over)
            break;
    }
    put_outcome(wish, result);
    return true;
}

static void job_output_open(struct stream *stream, struct fields *request)
{
    static struct wish wish;
    bool good = job_take_id(request, wish.id);
    wish.which = fields_u8(request, 17, 3);
    wish.offset = (uint64_t)fields_i64(request, 18, 0);
    wish.follow = fields_u8(request, 19, 0);
    if (!good || request->malformed || wish.which > 3 || wish.offset > INT64_MAX) {
        stream_error(stream, "bad_request", "malformed fields");
        return;
    }
    channel_send(FRAME_OPENED, 0, stream->id, NULL, 0); /* the job may be silent for long */
    worker_open(stream, put_out, &wish, GIVES_OUTPUT | GIVES_ERROR);
}

const struct operation job_output_operation = {.number = 18, .open = job_output_open, WORKER_OPERATION};
