/* Small things every part needs: complaints, remembered failures, whole files. */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct program program = {.root = ""};

static char failure_text[512];

void complain(const char *format, ...)
{
    char line[640];
    int start = snprintf(line, sizeof line, program.native ? "banger-guest: " : "<3>banger: ");
    va_list values;
    va_start(values, format);
    int length = vsnprintf(line + start, sizeof line - 1 - (size_t)start, format, values);
    va_end(values);
    if (length < 0)
        return;
    size_t end = strlen(line);
    line[end++] = '\n';
    int log = program.native ? -1 : open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
    write_whole(log < 0 ? STDERR_FILENO : log, line, end);
    if (log >= 0)
        close(log);
}

bool failed(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    vsnprintf(failure_text, sizeof failure_text, format, values);
    va_end(values);
    return false;
}

const char *failure(void)
{
    return failure_text;
}

bool rooted(const char *path, char *result, size_t size)
{
    if (path[0] != '/') {
        errno = EINVAL;
        return false;
    }
    if ((size_t)snprintf(result, size, "%s%s", program.root, path) < size)
        return true;
    errno = ENAMETOOLONG;
    return false;
}

/* Grows by doubling, because files in /proc have no size. */
static char *read_descriptor(int fd, size_t limit, size_t *size)
{
    size_t room = 4096, used = 0;
    char *text = malloc(room + 1);
    while (text) {
        ssize_t got = read(fd, text + used, room - used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            break;
        used += (size_t)got;
        if (got == 0) {
            text[used] = 0;
            *size = used;
            return text;
        }
        if (used > limit) {
            errno = EFBIG;
            break;
        }
        if (used == room) {
            room *= 2;
            char *larger = realloc(text, room + 1);
            if (!larger)
                break;
            text = larger;
        }
    }
    int error = text ? errno : ENOMEM;
    free(text);
    errno = error;
    return NULL;
}

char *read_whole(const char *path, size_t limit, size_t *size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    char *text = read_descriptor(fd, limit, size);
    int error = errno;
    close(fd);
    errno = error;
    return text;
}

bool write_whole(int fd, const void *bytes, size_t size)
{
    const char *at = bytes;
    while (size) {
        ssize_t done = write(fd, at, size);
        if (done < 0 && errno == EAGAIN)
            poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, -1);
        else if (done < 0 && errno != EINTR)
            return false;
        else if (done > 0) {
            at += done;
            size -= (size_t)done;
        }
    }
    return true;
}

uint64_t uptime_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}
