/* From the fields of an exec request to a checked plan: arguments, login environment, user. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exec.h"
#include "program.h"

enum {
    ARGUMENT = 16,
    ENVIRONMENT = 17,
    DIRECTORY = 18,
    USER = 19,
    TTY = 20,
    ROWS = 21,
    COLUMNS = 22,
    INPUT = 23,
    MAKE_DIRECTORY = 24,
    LOGIN_VARIABLES = 7,
};

static void free_list(char **list)
{
    for (size_t i = 0; list && list[i]; i++)
        free(list[i]);
    free(list);
}

void plan_free(struct plan *plan)
{
    free_list(plan->arguments);
    free_list(plan->environment);
    free(plan->directory);
    memset(plan, 0, sizeof *plan);
}

static size_t count_fields(const struct fields *fields, uint16_t tag)
{
    size_t count = 0, cursor = 0;
    struct bytes value;
    while (fields_each(fields, tag, &cursor, &value))
        count++;
    return count;
}

static char **take_list(struct fields *fields, uint16_t tag)
{
    size_t used = 0, cursor = 0;
    char **list = calloc(count_fields(fields, tag) + 1, sizeof *list);
    struct bytes value;
    while (list && fields_each(fields, tag, &cursor, &value)) {
        if (!(list[used++] = fields_string(fields, value))) {
            free_list(list);
            return NULL;
        }
    }
    return list;
}

/* Replaces the variable of that name or appends it; takes over `entry`. */
static void set_variable(char **list, char *entry)
{
    size_t i = 0, name = strcspn(entry, "=") + 1;
    while (list[i] && strncmp(list[i], entry, name) != 0)
        i++;
    free(list[i]);
    list[i] = entry;
}

static bool set_login_variables(char **list, const struct plan *plan)
{
    const char *const pairs[][2] = {
        {"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        {"HOME", plan->user.home},
        {"USER", plan->user.name},
        {"LOGNAME", plan->user.name},
        {"SHELL", plan->user.shell},
        {"LANG", "C.UTF-8"},
        {"TERM", "xterm"},
    };
    for (size_t i = 0; i < LOGIN_VARIABLES - (plan->tty ? 0 : 1); i++) {
        char *entry;
        if (asprintf(&entry, "%s=%s", pairs[i][0], pairs[i][1]) < 0)
            return false;
        set_variable(list, entry);
    }
    return true;
}

/* The login environment overridden by the request's. NULL when memory is short. */
static char **make_environment(const struct plan *plan, struct fields *request)
{
    char **given = take_list(request, ENVIRONMENT);
    char **list = calloc(count_fields(request, ENVIRONMENT) + LOGIN_VARIABLES + 1, sizeof *list);
    if (!given || !list || !set_login_variables(list, plan)) {
        free_list(given);
        free_list(list);
        return NULL;
    }
    for (size_t i = 0; given[i]; i++) {
        if (!strchr(given[i], '=') || given[i][0] == '=')
            request->malformed = true;
        set_variable(list, given[i]);
    }
    free(given);
    return list;
}

static bool find_user(struct plan *plan, struct fields *request)
{
    char *name = fields_text(request, USER);
    bool found = name && user_find(name[0] ? name : "root", &plan->user);
    if (!found)
        failed("no user %s", name ? name : "");
    free(name);
    return found;
}

bool plan_make(struct plan *plan, struct fields *request, const char **code)
{
    memset(plan, 0, sizeof *plan);
    plan->tty = fields_u8(request, TTY, 0);
    plan->has_input = fields_u8(request, INPUT, 0);
    plan->make_directory = fields_u8(request, MAKE_DIRECTORY, 0);
    plan->rows = (uint16_t)fields_u32(request, ROWS, 0);
    plan->columns = (uint16_t)fields_u32(request, COLUMNS, 0);
    *code = "no_user";
    if (!find_user(plan, request))
        return false;
    plan->directory = fields_text(request, DIRECTORY);
    plan->arguments = take_list(request, ARGUMENT);
    plan->environment = make_environment(plan, request);
    *code = "io";
    if (!plan->directory || !plan->arguments || !plan->environment)
        return failed("out of memory");
    *code = "bad_request";
    return !request->malformed || failed("malformed fields");
}
