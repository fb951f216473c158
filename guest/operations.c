/* The table of operations. */
#include "operations.h"

static const struct operation *const operations[] = {
    &configure_operation, &exec_operation,     &read_operation, &write_operation, &listeners_operation,
    &stats_operation,     &shutdown_operation, &time_operation, &sync_operation,  &connect_operation,
    &unpack_operation,    &pack_operation,     &stat_operation, &user_operation,
    &job_start_operation, &job_list_operation, &job_signal_operation, &job_output_operation,
};

const struct operation *operation_find(uint32_t number)
{
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
        if (operations[i]->number == number)
            return operations[i];
    return NULL;
}
