/* The operation configure: from one message to a running machine. */
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "handover.h"
#include "identity.h"
#include "network.h"
#include "operations.h"
#include "program.h"
#include "root.h"
#include "session.h"

enum {
    CONTENT_MAX = 16 * 1024 * 1024,
    HOSTNAME = 16,
    ROOT_MODE = 17,
    WORK_DISK = 18,
    NETWORK = 19,
    NAMESERVER = 20,
    FILE_TO_WRITE = 21,
    TIME = 22,
    ENTROPY = 23,
    INIT = 24,
    EXT4_PATH = 25,
};

/* The message while it arrives. */
struct arrival {
    uint8_t *bytes;
    size_t used, size;
};

struct configuration {
    struct fields fields;
    char *hostname, *init;
    struct root_plan root;
    bool has_card;
    struct card card;
    char **nameservers;
};

static bool configured; /* or tried to */

/* ---- taking the message apart ---- */

static void free_texts(char **texts)
{
    for (size_t i = 0; texts && texts[i]; i++)
        free(texts[i]);
    free(texts);
}

static char **take_texts(struct fields *fields, uint16_t tag)
{
    size_t count = 0, cursor = 0;
    struct bytes value;
    while (fields_each(fields, tag, &cursor, &value))
        count++;
    char **texts = calloc(count + 1, sizeof *texts);
    cursor = 0;
    for (size_t i = 0; texts && fields_each(fields, tag, &cursor, &value); i++)
        if (!(texts[i] = fields_string(fields, value)))
            break;
    return texts;
}

static void take_card(struct configuration *plan)
{
    struct bytes value = fields_bytes(&plan->fields, NETWORK);
    struct fields card = fields_open(value.at, value.size);
    plan->has_card = fields_has(&plan->fields, NETWORK);
    plan->card = (struct card){
        .mac = fields_text(&card, 1),
        .address = fields_text(&card, 2),
        .prefix = fields_u8(&card, 3, 24),
        .gateway = fields_text(&card, 4),
    };
    if (card.malformed)
        plan->fields.malformed = true;
}

static bool take_apart(struct configuration *plan, const struct arrival *arrival)
{
    *plan = (struct configuration){.fields = fields_open(arrival->bytes, arrival->used)};
    struct fields *fields = &plan->fields;
    plan->hostname = fields_text(fields, HOSTNAME);
    plan->init = fields_text(fields, INIT);
    plan->root.mode = fields_u8(fields, ROOT_MODE, ROOT_OVERLAY);
    plan->root.work_disk = fields_u8(fields, WORK_DISK, 0);
    plan->root.ext4_paths = take_texts(fields, EXT4_PATH);
    plan->nameservers = take_texts(fields, NAMESERVER);
    take_card(plan);
    fields_i64(fields, TIME, 0);
    if (fields->malformed)
        return failed("malformed fields");
    if (!plan->hostname || !plan->init || !plan->root.ext4_paths || !plan->nameservers || !plan->card.mac || !plan->card.address ||
        !plan->card.gateway)
        return failed("out of memory");
    return true;
}

static void put_away(struct configuration *plan)
{
    free(plan->hostname);
    free(plan->init);
    free_texts(plan->root.ext4_paths);
    free_texts(plan->nameservers);
    free(plan->card.mac);
    free(plan->card.address);
    free(plan->card.gateway);
}

/* ---- the steps ---- */

static bool set_clock_and_entropy(struct configuration *plan)
{
    struct bytes entropy = fields_bytes(&plan->fields, ENTROPY);
    if (fields_has(&plan->fields, TIME) && !clock_set(fields_i64(&plan->fields, TIME, 0)))
        return failed("set the clock: %m");
    if (entropy.size && !entropy_add(entropy.at, entropy.size))
        return failed("add entropy: %m");
    return true;
}

static bool put_file(struct bytes value)
{
    struct fields file = fields_open(value.at, value.size);
    char *path = fields_text(&file, 1);
    const struct attributes attributes = {
        .mode = fields_u32(&file, 2, 0644) & 07777,
        .uid = fields_u32(&file, 3, 0),
        .gid = fields_u32(&file, 4, 0),
    };
    bool good = path && !file.malformed ? identity_put_file(path, fields_bytes(&file, 5), &attributes) : failed("malformed file");
    free(path);
    return good;
}

static bool put_files(const struct fields *fields)
{
    size_t cursor = 0;
    struct bytes value;
    while (fields_each(fields, FILE_TO_WRITE, &cursor, &value))
        if (!put_file(value))
            return false;
    return true;
}

static bool start_network(const struct configuration *plan)
{
    return program.native || (network_start_loopback() && (!plan->has_card || network_start(&plan->card)));
}

/* A native run has no disks: the files go below --root. */
static bool apply(struct configuration *plan, const char **init)
{
    return set_clock_and_entropy(plan) && (program.native || root_assemble(&plan->root)) &&
           (!plan->hostname[0] || identity_set_hostname(plan->hostname)) && identity_set_nameservers(plan->nameservers) &&
           start_network(plan) && identity_keep_tmp() && root_complete() && put_files(&plan->fields) &&
           (program.native || (handover_choose(plan->init, init) && handover(*init)));
}

static void answer(struct stream *stream, const char *init)
{
    uint8_t bytes[8192];
    struct writer result = {.at = bytes, .size = sizeof bytes};
    put_u64(&result, 16, uptime_us());
    put_text(&result, 17, init[0] ? init : "banger");
    session_set_state(STATE_READY);
    stream_result(stream, &result);
    if (program.native)
        session_set_state(STATE_BOOTED);
}

/* ---- the operation ---- */

static void configure_open(struct stream *stream, struct fields *request)
{
    (void)request;
    if (configured) {
        stream_error(stream, "already_configured", "configure is accepted once");
        return;
    }
    stream->state = calloc(1, sizeof(struct arrival));
    if (!stream->state)
        stream_error(stream, "configure_failed", "out of memory");
}

static bool make_room(struct arrival *arrival, size_t size)
{
    if (arrival->size - arrival->used >= size)
        return true;
    size_t larger = 2 * arrival->size + size;
    uint8_t *moved = realloc(arrival->bytes, larger);
    if (!moved)
        return false;
    arrival->bytes = moved;
    arrival->size = larger;
    return true;
}

static void configure_data(struct stream *stream, const uint8_t *bytes, size_t size)
{
    struct arrival *arrival = stream->state;
    if (size > CONTENT_MAX - arrival->used || !make_room(arrival, size)) {
        stream_error(stream, "bad_request", "the configuration is too large");
        return;
    }
    if (size)
        memcpy(arrival->bytes + arrival->used, bytes, size);
    arrival->used += size;
    stream_consumed(stream, size);
}

static void configure_data_end(struct stream *stream)
{
    if (configured) {
        stream_error(stream, "already_configured", "configure is accepted once");
        return;
    }
    struct configuration plan;
    const char *init = "";
    bool good = take_apart(&plan, stream->state);
    if (!good) {
        stream_error(stream, "bad_request", "%s", failure());
    } else {
        configured = true;
        session_set_state(STATE_CONFIGURING);
        good = apply(&plan, &init);
        if (good) {
            answer(stream, init);
        } else {
            complain("configure: %s", failure());
            stream_error(stream, "configure_failed", "%s", failure());
        }
    }
    put_away(&plan);
}

static void configure_release(struct stream *stream)
{
    struct arrival *arrival = stream->state;
    if (!arrival)
        return;
    free(arrival->bytes);
    free(arrival);
}

const struct operation configure_operation = {
    .number = 1,
    .before_ready = true,
    .open = configure_open,
    .data = configure_data,
    .data_end = configure_data_end,
    .release = configure_release,
};
