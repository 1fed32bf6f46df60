// Base64 (RFC 4648), standard and URL-safe alphabets, padded or not. Knows bytes only.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

namespace stfs {

constexpr uint32_t NOT_BASE64 = 0xFF000000u;

// One table for each of the four places in a quantum, already shifted, so that four look-ups and three ORs decode it.
struct Base64Tables {
    std::array<std::array<uint32_t, 256>, 4> decode{};
    constexpr Base64Tables() {
        for (auto& table : decode) {
            for (auto& entry : table) entry = NOT_BASE64;
        }
        const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        for (uint32_t v = 0; v < 64; ++v) set(static_cast<unsigned char>(alphabet[v]), v);
        set('-', 62);
        set('_', 63);
    }
    constexpr void set(unsigned char c, uint32_t v) {
        for (size_t place = 0; place < 4; ++place) decode[place][c] = v << (18 - 6 * place);
    }
};

inline constexpr Base64Tables BASE64{};

// Strips the padding; gives the number of bytes that `length` characters decode to, or -1 for an impossible length.
inline ptrdiff_t base64_plan(const char* text, size_t& length) {
    size_t whole = length;
    while (length > 0 && whole - length < 2 && text[length - 1] == '=') --length;
    if (length % 4 == 1 || (length != whole && whole % 4 != 0)) return -1;
    return static_cast<ptrdiff_t>(length / 4 * 3 + (length % 4 ? length % 4 - 1 : 0));
}

// Decodes `length` characters (no padding) into `out`, which has the room that base64_plan said; false if one is bad.
inline bool base64_decode(const char* text, size_t length, unsigned char* out) {
    const auto& t = BASE64.decode;
    auto at = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
    uint32_t seen = 0;
    size_t i = 0;
    for (; i + 4 <= length; i += 4) {
        uint32_t v = t[0][at(i)] | t[1][at(i + 1)] | t[2][at(i + 2)] | t[3][at(i + 3)];
        seen |= v;
        *out++ = static_cast<unsigned char>(v >> 16);
        *out++ = static_cast<unsigned char>(v >> 8);
        *out++ = static_cast<unsigned char>(v);
    }
    if (size_t left = length - i; left > 1) {
        uint32_t v = t[0][at(i)] | t[1][at(i + 1)] | (left == 3 ? t[2][at(i + 2)] : 0);
        seen |= v;
        *out++ = static_cast<unsigned char>(v >> 16);
        if (left == 3) *out++ = static_cast<unsigned char>(v >> 8);
    }
    return (seen & NOT_BASE64) == 0;
}

// Writes (length + 2) / 3 * 4 characters of the standard alphabet, padded.
inline char* base64_encode(const unsigned char* data, size_t length, char* out) {
    constexpr char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t i = 0;
    for (; i + 3 <= length; i += 3) {
        uint32_t v = static_cast<uint32_t>(data[i]) << 16 | static_cast<uint32_t>(data[i + 1]) << 8 | data[i + 2];
        for (int shift = 18; shift >= 0; shift -= 6) *out++ = alphabet[v >> shift & 63];
    }
    if (size_t left = length - i; left > 0) {
        uint32_t v = static_cast<uint32_t>(data[i]) << 16 | (left == 2 ? static_cast<uint32_t>(data[i + 1]) << 8 : 0);
        *out++ = alphabet[v >> 18];
        *out++ = alphabet[v >> 12 & 63];
        *out++ = left == 2 ? alphabet[v >> 6 & 63] : '=';
        *out++ = '=';
    }
    return out;
}

}  // namespace stfs
