/* Jobs: commands that go on without the host. A supervisor, forked for each, keeps its output and its end in a directory of files. */
#ifndef JOB_H
#define JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "exec.h"
#include "fields.h"
#include "stream.h"

#define JOBS_DIRECTORY "/var/lib/banger/jobs"

enum { JOB_ID_MAX = 64, JOBS_MAX = 256 };

/* Field of every request about one job: its id. */
enum { JOB_REQUESTED = 30 };

/* Fields of a job, in its files and in RESULT of job_list. */
enum {
    JOB_ID = 1,
    JOB_PID = 2,
    JOB_STATE = 3,
    JOB_KIND = 4,
    JOB_NUMBER = 5,
    JOB_STARTED = 7,
    JOB_ENDED = 8,
    JOB_COMMAND = 9,
    JOB_USER = 10,
    JOB_STDOUT_SIZE = 11,
    JOB_STDERR_SIZE = 12,
    JOB_TRUNCATED = 13,
};

enum job_state { JOB_RUNNING = 0, JOB_OVER = 1, JOB_LOST = 2 };
enum { JOB_EXITED = 0, JOB_KILLED = 1, JOB_NOT_STARTED = 2 };

/* What the supervisor says of the beginning, once. */
struct job_beginning {
    bool runs;
    uint32_t pid;
    int error;     /* errno of what could not be done, and that */
    char code[28]; /* an error code of the protocol, or "" when it is the command that could not be started */
    char what[500];
};

/* Takes the id of a request; false when it is none. */
bool job_take_id(struct fields *request, char id[JOB_ID_MAX + 1]);
/* Whether a supervisor watches over a job of that name. */
bool job_is_running(const char *id);
/* The name of one of a job's files, "" for its directory. */
void job_path(char *result, size_t size, const char *id, const char *file);
/* Notes how a job has ended. False (errno). */
bool job_write_end(const char *id, int wait_status, bool truncated);
/* The fields in one of a job's files, to be freed; NULL (errno). */
char *job_read(const char *id, const char *file, struct fields *fields);

/* A job as it is asked for. */
struct job_order {
    char id[JOB_ID_MAX + 1];
    struct plan plan;
    char *label; /* what to show for its command; "" = its words */
    uint64_t output_limit; /* of stdout and of stderr, bytes */
};

/* The supervisor's life. `beginning` gets a struct job_beginning and stays open; `signals` yields u32 numbers. */
void job_supervise(const struct job_order *order, int beginning, int signals) __attribute__((noreturn));

#endif
