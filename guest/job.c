/* The agent's side of jobs: the operations that start and signal them, and who is running. */
#include "job.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "operations.h"
#include "program.h"

enum { OUTPUT_LIMIT = 31, OUTPUT_LIMIT_MAX = 64 * 1024 * 1024 };

/* A supervisor. Its place is free when `id` is "". */
struct job {
    char id[JOB_ID_MAX + 1];
    struct watch life;     /* what the supervisor has to say; ends with it */
    int signals;
    struct stream *stream; /* who waits for its beginning */
};

static struct job jobs[JOBS_MAX];

static struct job *find_job(const char *id)
{
    for (size_t i = 0; i < JOBS_MAX; i++)
        if (strcmp(jobs[i].id, id) == 0)
            return &jobs[i];
    return NULL;
}

bool job_is_running(const char *id)
{
    return find_job(id) != NULL;
}

bool job_take_id(struct fields *request, char id[JOB_ID_MAX + 1])
{
    struct bytes value = fields_bytes(request, JOB_REQUESTED);
    if (!value.size || value.size > JOB_ID_MAX)
        return false;
    memcpy(id, value.at, value.size);
    id[value.size] = 0;
    return strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789-") == value.size;
}

/* ---- job_start ---- */

static void forget(struct job *job)
{
    loop_watch(&job->life, 0);
    close(job->life.fd);
    close(job->signals);
    memset(job, 0, sizeof *job);
}

static void answer_beginning(struct stream *stream, const struct job_beginning *beginning)
{
    uint8_t bytes[1024];
    char message[700];
    struct writer result = {.at = bytes, .size = sizeof bytes};
    if (beginning->code[0]) {
        stream_error(stream, beginning->code, "%s", beginning->what);
    } else if (!beginning->runs && !beginning->error) {
        stream_error(stream, "io", "a supervisor has crashed");
    } else if (beginning->runs) {
        put_u32(&result, 19, beginning->pid);
        stream_result(stream, &result);
    } else {
        snprintf(message, sizeof message, "%s: %s", beginning->what, strerror(beginning->error));
        put_u8(&result, 16, JOB_NOT_STARTED);
        put_u32(&result, 17, (uint32_t)beginning->error);
        put_text(&result, 18, message);
        stream_result(stream, &result);
    }
}

static void life_ready(struct watch *watch)
{
    struct job *job = (struct job *)((char *)watch - offsetof(struct job, life));
    struct job_beginning beginning = {0};
    ssize_t got = read(watch->fd, &beginning, sizeof beginning);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (job->stream)
        answer_beginning(job->stream, &beginning); /* its release sets `stream` to NULL */
    bool told = got == sizeof beginning;
    if (told && beginning.runs)
        return;
    char place[512];
    job_path(place, sizeof place, job->id, "");
    if (!told && access(place, F_OK) == 0)
        job_write_end(job->id, SIGKILL, false); /* unless the supervisor has */
    forget(job); /* at once when it does not run: its id is free again */
}

static void __attribute__((noreturn)) supervise(const struct job_order *order, int beginning, int signals)
{
    int high_beginning = fcntl(beginning, F_DUPFD, 8), high_signals = fcntl(signals, F_DUPFD, 8);
    if (high_beginning < 0 || high_signals < 0 || dup2(high_beginning, 3) < 0 || dup2(high_signals, 4) < 0)
        _exit(EMFILE);
    close_range(5, ~0U, 0); /* other streams' pipes must not stay open because of us */
    fcntl(3, F_SETFD, FD_CLOEXEC);
    fcntl(4, F_SETFD, FD_CLOEXEC);
    job_supervise(order, 3, 4);
}

/* False (errno) when there is no supervisor then. */
static bool fork_supervisor(struct job *job, const struct job_order *order)
{
    int beginning[2], signals[2];
    if (pipe2(beginning, O_CLOEXEC) < 0)
        return false;
    if (pipe2(signals, O_CLOEXEC) < 0) {
        close(beginning[0]);
        close(beginning[1]);
        return false;
    }
    pid_t pid = fork();
    if (pid == 0)
        supervise(order, beginning[1], signals[0]);
    int error = errno;
    close(beginning[1]);
    close(signals[0]);
    fcntl(beginning[0], F_SETFL, O_NONBLOCK);
    fcntl(signals[1], F_SETFL, O_NONBLOCK);
    job->life = (struct watch){.fd = beginning[0], .produces = true, .ready = life_ready};
    job->signals = signals[1];
    errno = error;
    return pid > 0;
}

static void start_job(struct stream *stream, const struct job_order *order)
{
    struct job *job = find_job("");
    if (find_job(order->id)) {
        stream_error(stream, "exists", "there is a job %s already", order->id);
    } else if (!job) {
        stream_error(stream, "too_many_jobs", "%d jobs are running", JOBS_MAX);
    } else if (!fork_supervisor(job, order)) {
        int error = errno;
        if (job->life.fd > 0)
            forget(job);
        stream_error_errno(stream, error, "start a job");
    } else {
        memcpy(job->id, order->id, sizeof job->id);
        job->stream = stream;
        stream->state = job;
        if (!loop_watch(&job->life, EPOLLIN)) {
            stream_error(stream, "io", "epoll refuses another descriptor");
            forget(job);
        }
    }
}

static void job_start_open(struct stream *stream, struct fields *request)
{
    static struct job_order order;
    const char *code;
    uint64_t limit = fields_has(request, OUTPUT_LIMIT) ? (uint64_t)fields_i64(request, OUTPUT_LIMIT, 0) : OUTPUT_LIMIT_MAX;
    order.output_limit = limit < OUTPUT_LIMIT_MAX ? limit : OUTPUT_LIMIT_MAX;
    if (!job_take_id(request, order.id)) {
        stream_error(stream, "bad_request", "malformed job id");
        return;
    }
    if (!plan_make(&order.plan, request, &code))
        stream_error(stream, code, "%s", failure());
    else if (order.plan.tty || order.plan.has_input || !order.plan.arguments[0])
        stream_error(stream, "bad_request", "a job has a command and neither terminal nor input");
    else
        start_job(stream, &order);
    plan_free(&order.plan);
}

static void job_start_release(struct stream *stream)
{
    struct job *job = stream->state;
    if (job)
        job->stream = NULL;
}

const struct operation job_start_operation = {.number = 15, .open = job_start_open, .release = job_start_release};

/* ---- job_signal ---- */

static void job_signal_open(struct stream *stream, struct fields *request)
{
    char id[JOB_ID_MAX + 1];
    uint32_t number = fields_u32(request, 17, SIGTERM);
    if (!job_take_id(request, id) || request->malformed || !number || number >= NSIG) {
        stream_error(stream, "bad_request", "malformed job id or signal");
        return;
    }
    const struct job *job = find_job(id);
    if (job && write(job->signals, &number, sizeof number) == sizeof number)
        stream_result(stream, NULL);
    else
        stream_error(stream, job ? "io" : "not_found", "no job %s is running", id);
}

const struct operation job_signal_operation = {.number = 17, .open = job_signal_open};
