/* The event loop, on epoll. */
#include "loop.h"

#include <errno.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "program.h"

enum { BATCH = 64 };

/* The events of one epoll_wait that are not handed out yet; a watch that stops is struck out of them. */
struct batch {
    int set;
    int count, next;
    struct epoll_event events[BATCH];
};

static struct batch main_batch = {.set = -1}, producer_batch = {.set = -1};
static struct watch producers;

static void producers_ready(struct watch *watch)
{
    (void)watch; /* loop_round looks at them last */
}

static int fresh_set(struct batch *batch)
{
    if (batch->set >= 0)
        close(batch->set);
    batch->count = batch->next = 0;
    return batch->set = epoll_create1(EPOLL_CLOEXEC);
}

bool loop_start(void)
{
    if (fresh_set(&main_batch) < 0 || fresh_set(&producer_batch) < 0)
        return false;
    producers = (struct watch){.fd = producer_batch.set, .ready = producers_ready};
    return true;
}

static void strike_out(struct batch *batch, const struct watch *watch)
{
    for (int i = batch->next; i < batch->count; i++)
        if (batch->events[i].data.ptr == watch)
            batch->events[i].data.ptr = NULL;
}

bool loop_watch(struct watch *watch, uint32_t events)
{
    if (events == watch->events)
        return true;
    struct batch *batch = watch->produces ? &producer_batch : &main_batch;
    struct epoll_event event = {.events = events, .data.ptr = watch};
    int change = !events ? EPOLL_CTL_DEL : watch->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(batch->set, change, watch->fd, &event) < 0 && events) {
        complain("epoll: %m");
        return false;
    }
    watch->events = events;
    if (!events)
        strike_out(batch, watch);
    return true;
}

static void wait_batch(struct batch *batch, int timeout)
{
    batch->next = 0;
    batch->count = epoll_wait(batch->set, batch->events, BATCH, timeout);
    if (batch->count < 0)
        batch->count = 0;
}

static void hand_out(struct batch *batch, bool (*allowed)(void))
{
    while (batch->next < batch->count && (!allowed || allowed())) {
        struct watch *watch = batch->events[batch->next++].data.ptr;
        if (watch)
            watch->ready(watch);
    }
    batch->count = batch->next = 0;
}

void loop_round(int timeout, bool (*may_produce)(void))
{
    bool producing = may_produce();
    loop_watch(&producers, producing ? EPOLLIN : 0);
    wait_batch(&main_batch, timeout);
    hand_out(&main_batch, NULL);
    if (!producing)
        return;
    wait_batch(&producer_batch, 0);
    hand_out(&producer_batch, may_produce);
}
