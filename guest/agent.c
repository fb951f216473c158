/* The agent's life: its signals, its children, and the rounds of its loop. */
#include "agent.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "channel.h"
#include "exec.h"
#include "loop.h"
#include "program.h"
#include "session.h"
#include "stream.h"

static const int ignored[] = {SIGPIPE, SIGHUP, SIGINT, SIGTERM, SIGQUIT, SIGUSR1, SIGUSR2, SIGTTIN, SIGTTOU, SIGTSTP};

static struct watch children = {.fd = -1};

/* Reaping may answer streams, so it stops when the output queue is full; the signal is only taken off when nobody is left. */
static void children_ready(struct watch *watch)
{
    for (;;) {
        int status;
        struct signalfd_siginfo signal;
        pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid > 0) {
            streams_reaped(pid, status);
            if (!channel_has_room())
                return;
        } else if (read(watch->fd, &signal, sizeof signal) < 0) {
            return;
        }
    }
}

static bool watch_children(void)
{
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, NULL);
    if (children.fd >= 0)
        close(children.fd);
    int fd = signalfd(-1, &child, SFD_NONBLOCK | SFD_CLOEXEC);
    children = (struct watch){.fd = fd, .produces = true, .ready = children_ready};
    return fd >= 0 && loop_watch(&children, EPOLLIN);
}

bool agent_start(void)
{
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        signal(ignored[i], SIG_IGN);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    spawn_prepare();
    return loop_start() && watch_children();
}

void agent_undo_signals(void)
{
    sigset_t none;
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        signal(ignored[i], SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

void agent_run(void)
{
    for (bool open = channel_is_open();;) {
        channel_flush();
        loop_round(channel_has_input() || streams_are_eager() ? 0 : -1, channel_has_room);
        if (channel_has_input())
            channel_receive(session_handle);
        if (open && !channel_is_open())
            session_lost();
        open = channel_is_open();
        if (program.native && !open)
            return;
        streams_pump();
    }
}
