/* A step of the configuration that runs beside others, in a child: mounting ext4 takes a while, and there are two processors. */
#ifndef ERRAND_H
#define ERRAND_H

#include <stdbool.h>
#include <sys/types.h>

enum errand_outcome { ERRAND_GOOD, ERRAND_FAILED };

struct errand {
    pid_t pid;  /* 0 = not begun, or done at once with this outcome */
    int report; /* where the child writes its failure(); -1 = nowhere */
    enum errand_outcome outcome;
};

#define ERRAND_NONE ((struct errand){.report = -1})

/* Begins `step`, which returns false after failed(). It shares mounts and files, not memory. Done on the spot when there can be no child. */
void errand_begin(struct errand *errand, bool (*step)(void));

/* Waits for it: what it returned, with its failure(). Another join, or one of ERRAND_NONE, is a success. */
bool errand_join(struct errand *errand);

#endif
