/* The table of operations (docs/agent-protocol.md, section 6). */
#ifndef OPERATIONS_H
#define OPERATIONS_H

#include "stream.h"

extern const struct operation configure_operation; /* configure.c */
extern const struct operation exec_operation;      /* exec.c */
extern const struct operation read_operation;      /* files.c */
extern const struct operation write_operation;     /* files.c */
extern const struct operation listeners_operation; /* listeners.c */
extern const struct operation stats_operation;     /* stats.c */
extern const struct operation shutdown_operation;  /* power.c */
extern const struct operation time_operation;      /* clock.c */
extern const struct operation sync_operation;      /* files.c */
extern const struct operation unpack_operation;     /* unpack.c */
extern const struct operation pack_operation;       /* pack.c */
extern const struct operation stat_operation;       /* lookup.c */
extern const struct operation user_operation;       /* lookup.c */
extern const struct operation job_start_operation;  /* job.c */
extern const struct operation job_signal_operation; /* job.c */
extern const struct operation job_list_operation;   /* job_report.c */
extern const struct operation job_output_operation; /* job_report.c */
extern const struct operation connect_operation;   /* connect.c */

/* NULL when there is no operation of that number. */
const struct operation *operation_find(uint32_t number);

#endif
