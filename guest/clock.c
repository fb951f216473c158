/* The operation time, and what configure needs of clock and entropy. */
#include "clock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "operations.h"
#include "program.h"

enum { SECOND = 1000000000, ENTROPY_MAX = 4096 };

bool clock_set(int64_t nanoseconds)
{
    struct timespec time = {.tv_sec = nanoseconds / SECOND, .tv_nsec = nanoseconds % SECOND};
    if (nanoseconds < 0) {
        errno = EINVAL;
        return false;
    }
    return program.native || clock_settime(CLOCK_REALTIME, &time) == 0;
}

bool entropy_add(const void *bytes, size_t size)
{
    size = size < ENTROPY_MAX ? size : ENTROPY_MAX;
    struct rand_pool_info *pool = malloc(sizeof *pool + size);
    int device = program.native ? -1 : open("/dev/urandom", O_RDWR | O_CLOEXEC);
    bool added = program.native;
    if (pool && device >= 0) {
        pool->entropy_count = (int)size * 8;
        pool->buf_size = (int)size;
        memcpy(pool->buf, bytes, size);
        added = ioctl(device, RNDADDENTROPY, pool) == 0 && ioctl(device, RNDRESEEDCRNG) == 0;
    }
    free(pool);
    if (device >= 0)
        close(device);
    return added;
}

static void time_open(struct stream *stream, struct fields *request)
{
    int64_t wanted = fields_i64(request, 16, 0);
    if (request->malformed || wanted < 0) {
        stream_error(stream, "bad_request", "malformed time");
        return;
    }
    if (fields_has(request, 16) && !clock_set(wanted)) {
        stream_error_errno(stream, errno, "set the clock");
        return;
    }
    uint8_t bytes[64];
    struct writer result = {.at = bytes, .size = sizeof bytes};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    put_u64(&result, 16, (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec);
    put_u64(&result, 17, uptime_us());
    stream_result(stream, &result);
}

const struct operation time_operation = {.number = 8, .open = time_open};
