/* Starting a process: what exec.c decides and spawn.c does. */
#ifndef EXEC_H
#define EXEC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "fields.h"
#include "user.h"

/* A checked request. */
struct plan {
    char **arguments;   /* none = a login shell */
    char **environment; /* complete */
    char *directory;    /* "" = the user's home */
    struct user user;
    bool tty, has_input, make_directory;
    uint16_t rows, columns;
};

/* Descriptors of a started process; -1 where there is none. On a tty, `input` and `output` are both its master. */
struct process {
    pid_t pid;
    int status; /* yields a struct start_failure, or nothing once the program runs */
    int input, output, error;
};

struct start_failure {
    int error;
    char what[500];
};

/* Parses a request; *code tells why not (an error code of the protocol, the message is in failure()). */
bool plan_make(struct plan *plan, struct fields *request, const char **code);
void plan_free(struct plan *plan);

/* Forks; false (errno) when that fails. */
bool spawn(const struct plan *plan, struct process *process);
/* At program start: more descriptors for ourselves, remembered so that children get an ordinary limit. */
void spawn_prepare(void);

#endif
