/* A virtual machine monitor without a machine: it listens on the socket it is given, as QEMU does for the agent's port, and plays the guest program
 * behind it (docs/agent-protocol.md). It starts in a millisecond and outlives whoever started it.
 *
 *   fake-vmm -name NAME -agent FD -faults WORD,WORD...
 *
 * Faults: silent (never says hello), dies (ends before it says hello), refuse (configure fails), stubborn (does not power off when asked),
 * unbooted (never reports that init is up), deaf (ignores SIGTERM and its like).
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 24, TRAILER = 4, MAX_PAYLOAD = 65504, ROOM = 1 << 18 };
enum { ATTACH = 1, HELLO = 2, PING = 3, PONG = 4, EVENT = 5, OPEN = 16, END_OF_FILE = 19, RESULT = 22, ERROR = 23 };
enum { CONFIGURE = 1, EXEC = 2, STATS = 6, SHUTDOWN = 7, TIME = 8 };

struct frame { uint8_t type; uint32_t stream; uint32_t length; uint32_t epoch; const uint8_t *payload; };
struct message { uint8_t bytes[1024]; size_t size; };

static const char *faults = "";
static uint32_t epoch = 1, configuring;
static uint64_t last_nonce;
static uint8_t state;

static int has(const char *fault) { return strstr(faults, fault) != NULL; }

static uint32_t crc32_of(const uint8_t *bytes, size_t size)
{
    uint32_t crc = ~0u;
    while (size--) {
        crc ^= *bytes++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0xedb88320u & -(crc & 1));
    }
    return ~crc;
}

static void put(struct message *to, const void *bytes, size_t size)
{
    if (size > sizeof to->bytes - to->size)
        abort();
    memcpy(to->bytes + to->size, bytes, size);
    to->size += size;
}

static void put_field(struct message *to, uint16_t tag, const void *value, uint32_t size)
{
    uint16_t little_tag = htole16(tag);
    uint32_t little_size = htole32(size);
    put(to, &little_tag, 2);
    put(to, &little_size, 4);
    put(to, value, size);
}

static void put_u8(struct message *to, uint16_t tag, uint8_t value) { put_field(to, tag, &value, 1); }
static void put_u32(struct message *to, uint16_t tag, uint32_t value) { value = htole32(value); put_field(to, tag, &value, 4); }
static void put_u64(struct message *to, uint16_t tag, uint64_t value) { value = htole64(value); put_field(to, tag, &value, 8); }
static void put_text(struct message *to, uint16_t tag, const char *value) { put_field(to, tag, value, (uint32_t)strlen(value)); }

static void send_all(int sock, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    while (size) {
        ssize_t sent = send(sock, at, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return; /* the host has gone; the next read says so */
        at += sent;
        size -= (size_t)sent;
    }
}

static void say(int sock, uint8_t type, uint32_t stream, const void *payload, uint32_t size)
{
    uint8_t out[HEADER + 1024 + TRAILER] = "BGR1";
    uint32_t words[3] = {htole32(stream), htole32(size), htole32(epoch)};
    out[4] = type;
    memcpy(out + 8, words, sizeof words);
    uint32_t sum = htole32(crc32_of(out, 20));
    memcpy(out + 20, &sum, 4);
    memcpy(out + HEADER, payload, size);
    memcpy(out + HEADER + size, "RB\nZ", TRAILER);
    send_all(sock, out, HEADER + size + TRAILER);
}

static void say_hello(int sock, uint64_t nonce)
{
    struct message fields = {.size = 0};
    put_u64(&fields, 1, nonce);
    put_u32(&fields, 2, 1);
    put_u8(&fields, 3, state);
    put_text(&fields, 4, "fake-boot");
    put_text(&fields, 5, "6.1-fake");
    put_text(&fields, 6, "fake");
    say(sock, HELLO, 0, fields.bytes, (uint32_t)fields.size);
}

static uint64_t microseconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* The value of the first field, which all requests here have. */
static uint64_t first_field(const struct frame *frame)
{
    uint64_t value = 0;
    if (frame->length >= 10)
        memcpy(&value, frame->payload + 6, frame->length >= 14 && frame->payload[2] == 8 ? 8 : 4);
    return le64toh(value);
}

static void finish_configure(int sock)
{
    struct message fields = {.size = 0};
    if (has("refuse")) {
        put_text(&fields, 1, "configure_failed");
        put_text(&fields, 2, "no disk");
        say(sock, ERROR, configuring, fields.bytes, (uint32_t)fields.size);
        return;
    }
    state = 2;
    put_u64(&fields, 16, microseconds(CLOCK_BOOTTIME));
    put_text(&fields, 17, "/sbin/init");
    say(sock, RESULT, configuring, fields.bytes, (uint32_t)fields.size);
    configuring = 0;
    if (has("unbooted"))
        return;
    struct message event = {.size = 0};
    put_text(&event, 1, "booted");
    put_text(&event, 2, "");
    state = 3;
    say(sock, EVENT, 0, event.bytes, (uint32_t)event.size);
}

static void answer_open(int sock, const struct frame *frame)
{
    struct message fields = {.size = 0};
    uint32_t operation = (uint32_t)first_field(frame);
    if (operation == CONFIGURE) {
        configuring = frame->stream;
        return;
    }
    if (operation == EXEC) {
        put_u8(&fields, 16, 0);
        put_u32(&fields, 17, 0);
        put_text(&fields, 18, "");
    } else if (operation == STATS) {
        put_u64(&fields, 16, microseconds(CLOCK_BOOTTIME));
        put_u64(&fields, 17, 1 << 28);
        put_u64(&fields, 18, 1 << 27);
        put_u32(&fields, 19, 0);
        put_u32(&fields, 21, 1);
    } else if (operation == TIME) {
        put_u64(&fields, 16, microseconds(CLOCK_REALTIME) * 1000);
        put_u64(&fields, 17, microseconds(CLOCK_BOOTTIME));
    }
    say(sock, RESULT, frame->stream, fields.bytes, (uint32_t)fields.size);
    if (operation == SHUTDOWN && !has("stubborn"))
        exit(0);
}

static void answer(int sock, const struct frame *frame)
{
    if (frame->type == ATTACH) {
        uint64_t nonce = first_field(frame);
        epoch += nonce != last_nonce;
        last_nonce = nonce;
        if (!has("silent"))
            say_hello(sock, nonce);
    } else if (frame->epoch != epoch) {
        return;
    } else if (frame->type == PING) {
        say(sock, PONG, 0, frame->payload, frame->length > 64 ? 64 : frame->length);
    } else if (frame->type == OPEN) {
        answer_open(sock, frame);
    } else if (frame->type == END_OF_FILE && frame->stream == configuring) {
        finish_configure(sock);
    }
}

static uint32_t word_at(const uint8_t *bytes)
{
    uint32_t word;
    memcpy(&word, bytes, 4);
    return le32toh(word);
}

/* Answers the whole frames in the buffer; returns how many bytes it is done with. */
static size_t answer_frames(int sock, const uint8_t *bytes, size_t size)
{
    size_t at = 0;
    while (size - at >= HEADER) {
        const uint8_t *head = bytes + at;
        struct frame frame = {head[4], word_at(head + 8), word_at(head + 12), word_at(head + 16), head + HEADER};
        if (memcmp(head, "BGR1", 4) != 0 || word_at(head + 20) != crc32_of(head, 20) || frame.length > MAX_PAYLOAD) {
            at++;
            continue;
        }
        if (size - at < HEADER + frame.length + TRAILER)
            break;
        if (memcmp(frame.payload + frame.length, "RB\nZ", TRAILER) != 0) {
            at++;
            continue;
        }
        answer(sock, &frame);
        at += HEADER + frame.length + TRAILER;
    }
    return at;
}

static void serve(int sock)
{
    static uint8_t buffer[ROOM];
    size_t kept = 0;
    for (;;) {
        ssize_t got = recv(sock, buffer + kept, sizeof buffer - kept, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return;
        kept += (size_t)got;
        size_t done = answer_frames(sock, buffer, kept);
        memmove(buffer, buffer + done, kept - done);
        kept -= done;
    }
}

int main(int count, char **words)
{
    int listener = -1, greeted = 0;
    for (int i = 1; i + 1 < count; i += 2) {
        if (strcmp(words[i], "-agent") == 0)
            listener = atoi(words[i + 1]);
        else if (strcmp(words[i], "-faults") == 0)
            faults = words[i + 1];
    }
    if (has("deaf"))
        for (int number = 1; number < 32; number++)
            signal(number, SIG_IGN);
    printf("fake-vmm runs\n");
    fflush(stdout);
    if (has("dies")) {
        usleep(50000);
        return 1;
    }
    for (;;) {
        int sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (sock < 0)
            continue;
        if (!greeted && !has("silent"))
            say_hello(sock, 0);
        greeted = 1;
        serve(sock);
        close(sock);
    }
}
