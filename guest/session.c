/* HELLO, ATTACH, PING and epochs; frames of streams go on to the table of streams. */
#include "session.h"

#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "channel.h"
#include "fields.h"
#include "program.h"
#include "stream.h"

enum { PING_MAX = 64 };

static enum state state = STATE_WAITING;
static bool began, attached;
static uint64_t last_nonce;

enum state session_state(void)
{
    return state;
}

void session_set_state(enum state new_state)
{
    state = new_state;
    if (state != STATE_BOOTED || !channel_is_open())
        return;
    uint8_t bytes[64];
    struct writer writer = {.at = bytes, .size = sizeof bytes};
    put_text(&writer, 1, "booted");
    put_text(&writer, 2, "");
    channel_send(FRAME_EVENT, 0, 0, bytes, writer.used);
}

static void put_boot_id(struct writer *writer, uint16_t tag)
{
    char none[] = "";
    size_t size = 0;
    char *boot_id = read_whole("/proc/sys/kernel/random/boot_id", 256, &size);
    char *text = boot_id ? boot_id : none;
    text[strcspn(text, "\n")] = 0;
    put_text(writer, tag, text);
    free(boot_id);
}

static void send_hello(uint64_t nonce)
{
    uint8_t bytes[1024];
    struct writer writer = {.at = bytes, .size = sizeof bytes};
    struct utsname kernel = {0};
    uname(&kernel);
    put_u64(&writer, 1, nonce);
    put_u32(&writer, 2, PROTOCOL_VERSION);
    put_u8(&writer, 3, (uint8_t)state);
    put_boot_id(&writer, 4);
    put_text(&writer, 5, kernel.release);
    put_text(&writer, 6, BUILD_ID);
    channel_send(FRAME_HELLO, 0, 0, bytes, writer.used);
}

static void next_epoch(void)
{
    streams_cancel_all();
    channel_set_epoch(channel_epoch() + 1);
}

void session_begin(void)
{
    if (began)
        next_epoch();
    began = true;
    attached = false;
    send_hello(0);
}

void session_lost(void)
{
    streams_cancel_all();
}

/* What the host has half of is ended by zeros, so that it sees the HELLO behind them. */
static void handle_attach(const struct frame *frame)
{
    struct fields request = fields_open(frame->payload, frame->length);
    uint64_t nonce = (uint64_t)fields_i64(&request, 1, 0);
    uint32_t version = fields_u32(&request, 2, 0);
    if (request.malformed || frame->epoch != 0)
        return;
    bool again = attached && nonce == last_nonce;
    if (version == PROTOCOL_VERSION && !again) {
        next_epoch();
        attached = true;
        last_nonce = nonce;
        channel_restart_output();
    }
    send_hello(nonce);
}

void session_handle(const struct frame *frame)
{
    if (frame->type == FRAME_ATTACH)
        handle_attach(frame);
    else if (frame->epoch != channel_epoch())
        return;
    else if (frame->type == FRAME_PING && frame->length <= PING_MAX)
        channel_send(FRAME_PONG, 0, 0, frame->payload, frame->length);
    else
        streams_handle(frame);
}
