/* Moving frames between the host's byte pipe and the rest of the program. */
#include "channel.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "loop.h"
#include "program.h"

enum {
    INPUT_SIZE = 256 * 1024,
    OUTPUT_SIZE = 2 * 1024 * 1024,
    OUTPUT_MARK = 512 * 1024,   /* no more data is produced above it */
    OUTPUT_LIMIT = 1024 * 1024, /* no more requests are taken above it: what remains is for the answers to those taken */
    READS_PER_ROUND = 64,
    RESYNC_ZEROS = 65536,       /* more than a whole frame */
};

/* Bytes from `start` to `end` are waiting. */
struct buffer {
    uint8_t *bytes;
    size_t size, start, end;
};

static uint8_t input_bytes[INPUT_SIZE], output_bytes[OUTPUT_SIZE];
static struct buffer input = {.bytes = input_bytes, .size = INPUT_SIZE};
static struct buffer output = {.bytes = output_bytes, .size = OUTPUT_SIZE};
static struct watch watch = {.fd = -1};
static enum channel_kind kind;
static bool readable, writable, unscanned;
static uint32_t epoch = 1;

static size_t waiting(const struct buffer *buffer)
{
    return buffer->end - buffer->start;
}

/* Moves what waits to the front when there is less than `size` behind it. */
static void make_room(struct buffer *buffer, size_t size)
{
    if (buffer->start == buffer->end) {
        buffer->start = buffer->end = 0;
    } else if (buffer->size - buffer->end < size && buffer->start) {
        memmove(buffer->bytes, buffer->bytes + buffer->start, waiting(buffer));
        buffer->end = waiting(buffer);
        buffer->start = 0;
    }
}

/* Edge-triggered: the kernel says so once when it becomes readable or writable. A virtio port whose host has gone is always "hung up",
 * which a level-triggered watch would report without end. */
static void channel_ready(struct watch *unused)
{
    (void)unused;
    readable = writable = true;
}

bool channel_rewatch(void)
{
    watch.events = 0;
    watch.ready = channel_ready;
    readable = writable = true;
    return loop_watch(&watch, EPOLLIN | EPOLLOUT | EPOLLET);
}

bool channel_use(int fd, enum channel_kind new_kind)
{
    channel_close();
    kind = new_kind;
    watch.fd = fd;
    return channel_rewatch();
}

void channel_close(void)
{
    if (watch.fd < 0)
        return;
    loop_watch(&watch, 0);
    close(watch.fd);
    watch.fd = -1;
    readable = writable = unscanned = false;
    input.start = input.end = output.start = output.end = 0;
}

bool channel_is_open(void)
{
    return watch.fd >= 0;
}

void channel_set_epoch(uint32_t number)
{
    epoch = number;
}

uint32_t channel_epoch(void)
{
    return epoch;
}

uint8_t *channel_reserve(size_t size)
{
    size_t whole = FRAME_HEADER + size + FRAME_TRAILER;
    make_room(&output, whole);
    if (watch.fd < 0 || output.size - output.end < whole)
        return NULL;
    return output.bytes + output.end + FRAME_HEADER;
}

void channel_commit(uint8_t type, uint8_t channel, uint32_t stream, size_t size)
{
    struct frame frame = {.type = type, .channel = channel, .stream = stream, .epoch = epoch, .length = (uint32_t)size};
    output.end += frame_seal(output.bytes + output.end, &frame);
}

void channel_send(uint8_t type, uint8_t channel, uint32_t stream, const void *payload, size_t size)
{
    uint8_t *room = channel_reserve(size);
    if (!room) {
        if (watch.fd >= 0)
            complain("output queue overflow: a frame of type %d was dropped", type);
        return;
    }
    if (size)
        memcpy(room, payload, size);
    channel_commit(type, channel, stream, size);
}

void channel_restart_output(void)
{
    output.start = 0;
    output.end = RESYNC_ZEROS;
    memset(output.bytes, 0, RESYNC_ZEROS);
}

bool channel_has_room(void)
{
    return waiting(&output) < OUTPUT_MARK;
}

void channel_flush(void)
{
    while (writable && waiting(&output)) {
        ssize_t done = write(watch.fd, output.bytes + output.start, waiting(&output));
        if (done > 0)
            output.start += (size_t)done;
        else if (done == 0 || errno != EINTR)
            writable = false; /* EAGAIN, or the host is away: the loop will say when it is back */
    }
}

void channel_drain(int milliseconds)
{
    uint64_t end = uptime_us() + (uint64_t)milliseconds * 1000;
    while (watch.fd >= 0 && waiting(&output) && uptime_us() < end) {
        writable = true;
        channel_flush();
        if (waiting(&output))
            poll(&(struct pollfd){.fd = watch.fd, .events = POLLOUT}, 1, 20);
    }
}

static bool may_take_requests(void)
{
    return waiting(&output) < OUTPUT_LIMIT;
}

bool channel_has_input(void)
{
    return (readable || unscanned) && may_take_requests();
}

/* Fills the input buffer; a virtio port gives at most 4 KiB per read. */
static void fill_input(void)
{
    for (int i = 0; readable && i < READS_PER_ROUND; i++) {
        make_room(&input, FRAME_MAX);
        if (input.end == input.size)
            return;
        ssize_t got = read(watch.fd, input.bytes + input.end, input.size - input.end);
        if (got > 0) {
            input.end += (size_t)got;
            unscanned = true;
        } else if (got < 0 && errno == EINTR) {
            continue;
        } else {
            readable = false;
            if (kind == CHANNEL_SOCKET && (got == 0 || errno != EAGAIN))
                channel_close();
        }
    }
}

void channel_receive(void (*handle)(const struct frame *frame))
{
    fill_input();
    while (unscanned && may_take_requests()) {
        struct frame frame;
        bool found;
        input.start += frame_scan(input.bytes + input.start, waiting(&input), &frame, &found);
        unscanned = found;
        if (found)
            handle(&frame);
    }
}
