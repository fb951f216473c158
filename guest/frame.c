/* Encoding a frame, and finding frames in a byte pipe that may lose bytes or start in the middle. */
#include "frame.h"

#include <string.h>

static const uint8_t MAGIC[4] = {'B', 'G', 'R', '1'};
static const uint8_t TRAILER[4] = {0x52, 0x42, 0x0a, 0x5a};

uint32_t load_u32(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

uint64_t load_u64(const uint8_t *at)
{
    return load_u32(at) | (uint64_t)load_u32(at + 4) << 32;
}

void store_u16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

void store_u32(uint8_t *at, uint32_t value)
{
    store_u16(at, (uint16_t)value);
    store_u16(at + 2, (uint16_t)(value >> 16));
}

void store_u64(uint8_t *at, uint64_t value)
{
    store_u32(at, (uint32_t)value);
    store_u32(at + 4, (uint32_t)(value >> 32));
}

/* CRC-32 (IEEE 802.3, reflected), four bits at a time: only 20 bytes per frame are summed. */
static uint32_t crc32(const uint8_t *bytes, size_t size)
{
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    uint32_t crc = 0xffffffff;
    for (size_t i = 0; i < size; i++) {
        crc = table[(crc ^ bytes[i]) & 15] ^ crc >> 4;
        crc = table[(crc ^ bytes[i] >> 4) & 15] ^ crc >> 4;
    }
    return ~crc;
}

size_t frame_seal(uint8_t *start, const struct frame *frame)
{
    memcpy(start, MAGIC, sizeof MAGIC);
    start[4] = frame->type;
    start[5] = frame->channel;
    store_u16(start + 6, 0);
    store_u32(start + 8, frame->stream);
    store_u32(start + 12, frame->length);
    store_u32(start + 16, frame->epoch);
    store_u32(start + 20, crc32(start, 20));
    memcpy(start + FRAME_HEADER + frame->length, TRAILER, sizeof TRAILER);
    return FRAME_HEADER + frame->length + FRAME_TRAILER;
}

/* The first place at or after `at` where the magic stands, or may have begun at the very end of the buffer. */
static size_t find_magic(const uint8_t *bytes, size_t at, size_t size)
{
    while (at < size) {
        const uint8_t *hit = memchr(bytes + at, MAGIC[0], size - at);
        if (!hit)
            return size;
        at = (size_t)(hit - bytes);
        size_t known = size - at < sizeof MAGIC ? size - at : sizeof MAGIC;
        if (memcmp(hit, MAGIC, known) == 0)
            return at;
        at++;
    }
    return size;
}

static bool header_is_sound(const uint8_t *header)
{
    return load_u32(header + 20) == crc32(header, 20) && header[6] == 0 && header[7] == 0 &&
           load_u32(header + 12) <= FRAME_PAYLOAD_MAX;
}

size_t frame_scan(const uint8_t *bytes, size_t size, struct frame *frame, bool *found)
{
    *found = false;
    for (size_t at = 0;; at++) {
        at = find_magic(bytes, at, size);
        const uint8_t *start = bytes + at;
        if (size - at < FRAME_HEADER)
            return at;
        if (!header_is_sound(start))
            continue;
        uint32_t length = load_u32(start + 12);
        size_t whole = FRAME_HEADER + length + FRAME_TRAILER;
        if (size - at < whole)
            return at;
        if (memcmp(start + FRAME_HEADER + length, TRAILER, sizeof TRAILER) != 0)
            continue;
        *frame = (struct frame){
            .type = start[4], .channel = start[5], .stream = load_u32(start + 8),
            .length = length, .epoch = load_u32(start + 16), .payload = start + FRAME_HEADER,
        };
        *found = true;
        return at + whole;
    }
}
