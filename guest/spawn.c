/* Forking a process with its stdio, terminal, user, directory and environment. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "exec.h"
#include "program.h"
#include "tree.h"

enum {
    OWN_DESCRIPTORS = 4096, /* 256 streams with up to five each */
    CHILD_DESCRIPTORS_SOFT = 1024,
    CHILD_DESCRIPTORS_HARD = 524288, /* both as systemd gives to services */
};

/* The child's ends. */
struct ends {
    int stdio[3], status;
};

void spawn_prepare(void)
{
    struct rlimit limit = {OWN_DESCRIPTORS, CHILD_DESCRIPTORS_HARD};
    if (setrlimit(RLIMIT_NOFILE, &limit) == 0)
        return;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max < OWN_DESCRIPTORS ? limit.rlim_max : OWN_DESCRIPTORS;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* ---- in the child ---- */

static void __attribute__((noreturn, format(printf, 2, 3))) give_up(int status, const char *format, ...)
{
    struct start_failure failure = {.error = errno};
    va_list values;
    va_start(values, format);
    vsnprintf(failure.what, sizeof failure.what, format, values);
    va_end(values);
    write_whole(status, &failure, sizeof failure);
    _exit(127);
}

/* Nothing of what the agent is for itself may be inherited. A signal that was sent before is delivered here. */
static void become_ordinary(void)
{
    sigset_t none;
    sigemptyset(&none);
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max < CHILD_DESCRIPTORS_SOFT ? limit.rlim_max : CHILD_DESCRIPTORS_SOFT;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    int adjust = program.native ? -1 : open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (adjust >= 0) {
        write_whole(adjust, "0", 1);
        close(adjust);
    }
    umask(022);
}

static void become_user(const struct user *user, int status)
{
    if (program.native && geteuid() != 0)
        return; /* an ordinary user's test run stays that user */
    if (setgroups(user->group_count, user->groups) < 0)
        give_up(status, "setgroups");
    if (setgid(user->gid) < 0)
        give_up(status, "setgid %u", user->gid);
    if (setuid(user->uid) < 0)
        give_up(status, "setuid %u", user->uid);
}

static void enter_directory(const struct plan *plan, int status)
{
    if (plan->directory[0]) {
        if (chdir(plan->directory) < 0)
            give_up(status, "chdir %s", plan->directory);
    } else if (chdir(plan->user.home) < 0 && chdir("/") < 0) {
        give_up(status, "chdir /");
    }
}

static void __attribute__((noreturn)) execute(const struct plan *plan, int status)
{
    environ = plan->environment; /* its PATH is the one to search */
    if (plan->arguments[0]) {
        execvp(plan->arguments[0], plan->arguments);
        give_up(status, "exec %s", plan->arguments[0]);
    }
    char name[sizeof plan->user.shell + 1];
    const char *slash = strrchr(plan->user.shell, '/');
    snprintf(name, sizeof name, "-%s", slash ? slash + 1 : plan->user.shell);
    execl(plan->user.shell, name, NULL);
    give_up(status, "exec %s", plan->user.shell);
}

static void __attribute__((noreturn)) child(const struct plan *plan, const struct ends *ends)
{
    setsid();
    for (int i = 0; i < 3; i++)
        if (dup2(ends->stdio[i], i) < 0)
            give_up(ends->status, "stdio");
    if (plan->tty && ioctl(0, TIOCSCTTY, 0) < 0)
        give_up(ends->status, "controlling terminal");
    become_ordinary();
    if (plan->make_directory) /* without success chdir says why */
        make_directories(plan->directory, &(struct attributes){.mode = 0755}, true);
    become_user(&plan->user, ends->status);
    enter_directory(plan, ends->status);
    execute(plan, ends->status);
}

/* ---- in the agent ---- */

static void close_all(const int *descriptors, size_t count)
{
    int error = errno;
    for (size_t i = 0; i < count; i++)
        if (descriptors[i] >= 0)
            close(descriptors[i]);
    errno = error;
}

/* A pipe whose agent's end (0 or 1) does not block. */
static bool make_pipe(int *agents, int *childs, int agents_end)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return false;
    *agents = ends[agents_end];
    *childs = ends[1 - agents_end];
    fcntl(*agents, F_SETFL, O_NONBLOCK);
    return true;
}

static bool make_pipes(const struct plan *plan, struct process *process, struct ends *ends)
{
    if (plan->has_input && !make_pipe(&process->input, &ends->stdio[0], 1))
        return false;
    if (!plan->has_input && (ends->stdio[0] = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0)
        return false;
    return make_pipe(&process->output, &ends->stdio[1], 0) && make_pipe(&process->error, &ends->stdio[2], 0);
}

static bool make_terminal(const struct plan *plan, struct process *process, struct ends *ends)
{
    int unlock = 0;
    struct winsize size = {.ws_row = plan->rows, .ws_col = plan->columns};
    process->output = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (process->output < 0 || ioctl(process->output, TIOCSPTLCK, &unlock) < 0)
        return false;
    process->input = fcntl(process->output, F_DUPFD_CLOEXEC, 3);
    int slave = ioctl(process->output, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    ends->stdio[0] = slave;
    if (process->input < 0 || slave < 0)
        return false;
    ends->stdio[1] = fcntl(slave, F_DUPFD_CLOEXEC, 3);
    ends->stdio[2] = fcntl(slave, F_DUPFD_CLOEXEC, 3);
    if (ends->stdio[1] < 0 || ends->stdio[2] < 0)
        return false;
    if (plan->rows && plan->columns)
        ioctl(slave, TIOCSWINSZ, &size);
    struct termios modes;
    if (tcgetattr(slave, &modes) == 0) {
        modes.c_iflag |= IUTF8;
        tcsetattr(slave, TCSANOW, &modes);
    }
    if (!give_to(slave, plan->user.uid, (gid_t)-1) || fchmod(slave, 0620) < 0)
        complain("terminal's owner: %m");
    return true;
}

bool spawn(const struct plan *plan, struct process *process)
{
    *process = (struct process){.pid = -1, .status = -1, .input = -1, .output = -1, .error = -1};
    struct ends ends = {.stdio = {-1, -1, -1}, .status = -1};
    bool ready = plan->tty ? make_terminal(plan, process, &ends) : make_pipes(plan, process, &ends);
    if (ready && make_pipe(&process->status, &ends.status, 0)) {
        sigset_t all, before;
        sigfillset(&all);
        sigprocmask(SIG_SETMASK, &all, &before); /* or the child would ignore, as we do, what comes at once */
        process->pid = fork();
        if (process->pid == 0)
            child(plan, &ends);
        sigprocmask(SIG_SETMASK, &before, NULL);
    }
    close_all((int[]){ends.stdio[0], ends.stdio[1], ends.stdio[2], ends.status}, 4);
    if (process->pid > 0)
        return true;
    close_all((int[]){process->status, process->input, process->output, process->error}, 4);
    return false;
}
