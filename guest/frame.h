/* Frames: the unit of the agent protocol (docs/agent-protocol.md, section 2). */
#ifndef FRAME_H
#define FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FRAME_HEADER = 24,
    FRAME_TRAILER = 4,
    FRAME_PAYLOAD_MAX = 65504,
    FRAME_MAX = FRAME_HEADER + FRAME_PAYLOAD_MAX + FRAME_TRAILER,
};

enum frame_type {
    FRAME_ATTACH = 1,
    FRAME_HELLO = 2,
    FRAME_PING = 3,
    FRAME_PONG = 4,
    FRAME_EVENT = 5,
    FRAME_OPEN = 16,
    FRAME_OPENED = 17,
    FRAME_DATA = 18,
    FRAME_EOF = 19,
    FRAME_WINDOW = 20,
    FRAME_CONTROL = 21,
    FRAME_RESULT = 22,
    FRAME_ERROR = 23,
    FRAME_CANCEL = 24,
};

/* One frame; `payload` points into the buffer it was found in and is valid only as long as that. */
struct frame {
    uint8_t type, channel;
    uint32_t stream, epoch, length;
    const uint8_t *payload;
};

/* Writes header and trailer around a payload that already stands at start + FRAME_HEADER; returns the whole size. */
size_t frame_seal(uint8_t *start, const struct frame *frame);

/* Looks for the first whole, sound frame in `bytes`. Returns how many bytes can be forgotten: up to the end of the
 * frame when *found, else up to the place where a frame may have begun that has not arrived completely. */
size_t frame_scan(const uint8_t *bytes, size_t size, struct frame *frame, bool *found);

/* Little-endian numbers. */
uint32_t load_u32(const uint8_t *at);
uint64_t load_u64(const uint8_t *at);
void store_u16(uint8_t *at, uint16_t value);
void store_u32(uint8_t *at, uint32_t value);
void store_u64(uint8_t *at, uint64_t value);

#endif
