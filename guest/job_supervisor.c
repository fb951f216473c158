/* The process that watches over one job: its output goes to files of bounded size, and its end is written down. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "job.h"
#include "program.h"
#include "tree.h"

enum { PIECE = 64 * 1024, COMMAND_MAX = 4000, FILE_MAX = 16 * 1024, SECOND = 1000000000 };

/* One of a job's two outputs. */
struct output {
    int from, file;
    uint64_t left;
    bool truncated;
};

static uint8_t piece[PIECE];

/* ---- files ---- */

void job_path(char *result, size_t size, const char *id, const char *file)
{
    snprintf(result, size, "%s%s%s%s%s%s", program.root, JOBS_DIRECTORY, id[0] ? "/" : "", id, file[0] ? "/" : "", file);
}

char *job_read(const char *id, const char *file, struct fields *fields)
{
    char place[PATH_MAX];
    size_t size;
    job_path(place, sizeof place, id, file);
    char *bytes = read_whole(place, FILE_MAX, &size);
    if (bytes)
        *fields = fields_open((const uint8_t *)bytes, size);
    return bytes;
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

/* Under a temporary name first: who reads it finds all of it or nothing. An existing file stays. */
static bool write_fields(const char *id, const char *file, const struct writer *fields)
{
    char place[PATH_MAX], temporary[PATH_MAX];
    job_path(place, sizeof place, id, file);
    int fd = create_beside(place, temporary, sizeof temporary);
    bool good = fd >= 0 && write_whole(fd, fields->at, fields->used) && link(temporary, place) == 0;
    if (fd >= 0) {
        close(fd);
        unlink(temporary);
    }
    return good;
}

bool job_write_end(const char *id, int wait_status, bool truncated)
{
    uint8_t bytes[256];
    struct writer fields = {.at = bytes, .size = sizeof bytes};
    bool killed = WIFSIGNALED(wait_status);
    put_u8(&fields, JOB_KIND, killed ? JOB_KILLED : JOB_EXITED);
    put_u32(&fields, JOB_NUMBER, (uint32_t)(killed ? WTERMSIG(wait_status) : WEXITSTATUS(wait_status)));
    put_u64(&fields, JOB_ENDED, now());
    put_u8(&fields, JOB_TRUNCATED, truncated);
    return write_fields(id, "status", &fields);
}

static bool write_beginning(const struct job_order *order, pid_t pid)
{
    uint8_t bytes[COMMAND_MAX + 1024];
    char command[COMMAND_MAX];
    struct writer fields = {.at = bytes, .size = sizeof bytes};
    size_t used = (size_t)snprintf(command, sizeof command, "%s", order->label);
    for (size_t i = 0; !order->label[0] && order->plan.arguments[i] && used < sizeof command - 1; i++)
        used += (size_t)snprintf(command + used, sizeof command - used, "%s%s", i ? " " : "", order->plan.arguments[i]);
    put_text(&fields, JOB_ID, order->id);
    put_u32(&fields, JOB_PID, (uint32_t)pid);
    put_u64(&fields, JOB_STARTED, now());
    put_text(&fields, JOB_COMMAND, command);
    put_text(&fields, JOB_USER, order->plan.user.name);
    return write_fields(order->id, "command", &fields);
}

static void remove_job(const char *id)
{
    char place[PATH_MAX];
    job_path(place, sizeof place, id, "");
    int directory = open(place, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (directory < 0)
        return;
    empty_directory(directory);
    close(directory);
    rmdir(place);
}

/* How many jobs there are, and which of those that do not run is the oldest ("" = none). */
static size_t count_jobs(char oldest[JOB_ID_MAX + 1])
{
    char place[PATH_MAX];
    struct timespec first = {0};
    size_t count = 0;
    oldest[0] = 0;
    job_path(place, sizeof place, "", "");
    DIR *list = opendir(place);
    const struct dirent *one;
    while (list && (one = readdir(list))) {
        struct stat status;
        if (one->d_name[0] == '.' || strlen(one->d_name) > JOB_ID_MAX || fstatat(dirfd(list), one->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        count++;
        bool older = !oldest[0] || status.st_mtim.tv_sec < first.tv_sec || (status.st_mtim.tv_sec == first.tv_sec && status.st_mtim.tv_nsec < first.tv_nsec);
        if (job_is_running(one->d_name) || !older)
            continue;
        first = status.st_mtim;
        snprintf(oldest, JOB_ID_MAX + 1, "%.64s", one->d_name);
    }
    if (list)
        closedir(list);
    return count;
}

/* ---- beginning ---- */

static void __attribute__((noreturn)) give_up(int to, const char *id, struct job_beginning *why)
{
    if (id)
        remove_job(id);
    write_whole(to, why, sizeof *why);
    _exit(1);
}

static void __attribute__((noreturn)) fail(int to, const char *id, const char *code, const char *what)
{
    struct job_beginning why = {0};
    snprintf(why.what, sizeof why.what, "%s%s%s", what, errno ? ": " : "", errno ? strerror(errno) : "");
    snprintf(why.code, sizeof why.code, "%s", code);
    give_up(to, id, &why);
}

static const char *code_for(int error)
{
    return error == ENOSPC || error == EDQUOT ? "no_space" : "io";
}

static void make_home(const struct job_order *order, int beginning)
{
    char place[PATH_MAX], oldest[JOB_ID_MAX + 1];
    const struct attributes private = {.mode = 0700};
    job_path(place, sizeof place, order->id, "");
    if (!make_directories(place, &private, false))
        fail(beginning, NULL, code_for(errno), "make " JOBS_DIRECTORY);
    while (count_jobs(oldest) >= JOBS_MAX && oldest[0])
        remove_job(oldest);
    if (mkdir(place, 0700) < 0 && errno == EEXIST) {
        errno = 0;
        fail(beginning, NULL, "exists", "there is a job of that id already");
    } else if (access(place, F_OK) < 0) {
        fail(beginning, NULL, code_for(errno), "make the job's directory");
    }
}

static int create_output(const struct job_order *order, const char *name, int beginning)
{
    char place[PATH_MAX];
    job_path(place, sizeof place, order->id, name);
    int fd = open(place, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        fail(beginning, order->id, code_for(errno), "make the output's file");
    return fd;
}

/* Returns once the program runs. */
static void begin(const struct job_order *order, struct process *process, int to)
{
    struct start_failure failure;
    struct job_beginning beginning = {.runs = true};
    if (!spawn(&order->plan, process))
        fail(to, order->id, "io", "start a process");
    poll(&(struct pollfd){.fd = process->status, .events = POLLIN}, 1, -1);
    if (read(process->status, &failure, sizeof failure) == sizeof failure) {
        beginning = (struct job_beginning){.error = failure.error};
        memcpy(beginning.what, failure.what, sizeof beginning.what);
        give_up(to, order->id, &beginning);
    }
    close(process->status);
    beginning.pid = (uint32_t)process->pid;
    if (!write_beginning(order, process->pid)) {
        int error = errno;
        kill(-process->pid, SIGKILL);
        errno = error;
        fail(to, order->id, code_for(errno), "write down the job");
    }
    write_whole(to, &beginning, sizeof beginning);
}

/* ---- running ---- */

static void store(struct output *output, size_t size, uint64_t limit)
{
    size_t fits = size < output->left ? size : (size_t)output->left;
    if (output->truncated)
        return;
    if (write_whole(output->file, piece, fits) && fits == size) {
        output->left -= fits;
        return;
    }
    output->truncated = true; /* at its limit, or the disk is full: the command goes on all the same */
    dprintf(output->file, "\n[banger: the rest of the output is not kept; the limit is %llu bytes]\n", (unsigned long long)limit);
}

/* What there is to read, at most `most` bytes. */
static void take(struct output *output, size_t most, uint64_t limit)
{
    while (most && output->from >= 0) {
        ssize_t got = read(output->from, piece, most < PIECE ? most : PIECE);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            return;
        if (got <= 0) {
            close(output->from);
            output->from = -1;
            return;
        }
        store(output, (size_t)got, limit);
        most -= (size_t)got;
    }
}

/* What its processes wrote before the first of them ended; others that it left behind do not keep the job alive. */
static void take_rest(struct output *output, uint64_t limit)
{
    int size = 0;
    if (output->from >= 0 && ioctl(output->from, FIONREAD, &size) == 0 && size > 0)
        take(output, (size_t)size, limit);
}

static bool pass_signal(int from, pid_t pid)
{
    uint32_t number;
    ssize_t got = read(from, &number, sizeof number);
    if (got == sizeof number && kill(-pid, (int)number) == 0)
        kill(-pid, SIGCONT);
    return got > 0 || (got < 0 && errno == EINTR);
}

static void watch_over(struct output outputs[2], pid_t pid, int signals, uint64_t limit)
{
    int end = (int)syscall(SYS_pidfd_open, pid, 0);
    for (;;) {
        struct pollfd polled[] = {
            {.fd = end, .events = POLLIN},
            {.fd = signals, .events = POLLIN},
            {.fd = outputs[0].from, .events = POLLIN},
            {.fd = outputs[1].from, .events = POLLIN},
        };
        if (poll(polled, 4, -1) < 0)
            continue;
        if (polled[0].revents)
            return;
        if (polled[1].revents && !pass_signal(signals, pid))
            signals = -1;
        for (int i = 0; i < 2; i++)
            if (polled[2 + i].revents)
                take(&outputs[i], PIECE, limit);
    }
}

void job_supervise(const struct job_order *order, int beginning, int signals)
{
    struct process process;
    int status = 0;
    make_home(order, beginning);
    struct output outputs[2] = {
        {.file = create_output(order, "stdout", beginning), .left = order->output_limit},
        {.file = create_output(order, "stderr", beginning), .left = order->output_limit},
    };
    begin(order, &process, beginning);
    outputs[0].from = process.output;
    outputs[1].from = process.error;
    watch_over(outputs, process.pid, signals, order->output_limit);
    waitpid(process.pid, &status, 0);
    take_rest(&outputs[0], order->output_limit);
    take_rest(&outputs[1], order->output_limit);
    if (!job_write_end(order->id, status, outputs[0].truncated || outputs[1].truncated))
        complain("the end of job %s could not be written down: %m", order->id);
    _exit(0);
}
