/* Steps that run beside others in a forked child. */
#include "errand.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "program.h"

void errand_begin(struct errand *errand, bool (*step)(void))
{
    int ends[2];
    *errand = ERRAND_NONE;
    if (pipe2(ends, O_CLOEXEC) < 0) {
        errand->outcome = step() ? ERRAND_GOOD : ERRAND_FAILED;
        return;
    }
    errand->pid = fork();
    if (errand->pid == 0) {
        if (step())
            _exit(0);
        write_whole(ends[1], failure(), strlen(failure()));
        _exit(1);
    }
    close(ends[1]);
    errand->report = ends[0];
    if (errand->pid < 0) {
        errand->pid = 0;
        errand->outcome = step() ? ERRAND_GOOD : ERRAND_FAILED;
    }
}

bool errand_join(struct errand *errand)
{
    char text[512];
    int status = 0;
    bool good = errand->outcome == ERRAND_GOOD;
    if (errand->pid) {
        ssize_t size = read(errand->report, text, sizeof text - 1);
        while (waitpid(errand->pid, &status, 0) < 0 && errno == EINTR)
            ;
        text[size < 0 ? 0 : size] = 0;
        good = status == 0 || failed("%s", size > 0 ? text : "a child has crashed");
    }
    if (errand->report >= 0)
        close(errand->report);
    *errand = ERRAND_NONE;
    return good;
}
