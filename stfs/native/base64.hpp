// Base64 (RFC 4648), standard and URL-safe alphabets, padded or not. Knows bytes only.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define STFS_BASE64_AVX2
#endif

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

#ifdef STFS_BASE64_AVX2
// Decodes whole blocks of 32 characters while 8 bytes of room are left behind what they decode to, moving all three on;
// false if a character is bad. After Wojciech Mula and Daniel Lemire, "Faster Base64 Encoding and Decoding Using AVX2
// Instructions" (2018), with tables for both alphabets: a character is known by its two hexadecimal digits.
__attribute__((target("avx2"))) inline bool base64_decode_blocks(const char*& text, size_t& length, unsigned char*& out) {
    // Sets of the second digit: 1 with 2 before it (+ - /), 2 with 3 (0-9), 4 with 4 or 6, 8 with 5, 16 with 7.
    const __m256i seconds = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(26, 30, 30, 30, 30, 30, 30, 30, 30, 30, 28, 5, 4, 5, 4, 13));
    const __m256i firsts = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 1, 2, 4, 8, 4, 16, 0, 0, 0, 0, 0, 0, 0, 0));
    // What to add, by the first digit, or by the second of + - /; and what more for _.
    const __m256i moved = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 0, 0, 52 - '0', -'A', -'A', 26 - 'a', 26 - 'a', 0, 0, 0, 0, 0, 0, 0, 0));
    const __m256i moved_signs = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 62 - '+', 0, 62 - '-', 0, 63 - '/'));
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i three_of_four = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, -1, -1, -1, -1));
    const __m256i together = _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 3, 7);
    // 24 bytes are made and 32 written, so the characters behind must decode to 8 or more: eleven do.
    while (length >= 32 + 11) {
        const __m256i c = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(text));
        const __m256i first = _mm256_and_si256(_mm256_srli_epi16(c, 4), nibble), second = _mm256_and_si256(c, nibble);
        const __m256i known = _mm256_and_si256(_mm256_shuffle_epi8(firsts, first), _mm256_shuffle_epi8(seconds, second));
        if (_mm256_movemask_epi8(_mm256_cmpeq_epi8(known, _mm256_setzero_si256())) != 0) return false;
        const __m256i sign = _mm256_cmpeq_epi8(first, _mm256_set1_epi8(2));
        const __m256i shift = _mm256_blendv_epi8(_mm256_shuffle_epi8(moved, first),
                                                 _mm256_shuffle_epi8(moved_signs, second), sign);
        const __m256i low_line = _mm256_and_si256(_mm256_cmpeq_epi8(c, _mm256_set1_epi8('_')),
                                                  _mm256_set1_epi8(63 - ('_' - 'A')));
        const __m256i value = _mm256_add_epi8(c, _mm256_add_epi8(shift, low_line));
        const __m256i twelves = _mm256_maddubs_epi16(value, _mm256_set1_epi32(0x01400140));
        const __m256i quanta = _mm256_madd_epi16(twelves, _mm256_set1_epi32(0x00011000));
        const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(quanta, three_of_four), together);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), bytes);
        text += 32;
        length -= 32;
        out += 24;
    }
    return true;
}
#endif

// Decodes `length` characters (no padding) into `out`, which has the room that base64_plan said; false if one is bad.
inline bool base64_decode(const char* text, size_t length, unsigned char* out) {
#ifdef STFS_BASE64_AVX2
    if (length >= 64 && __builtin_cpu_supports("avx2") && !base64_decode_blocks(text, length, out)) return false;
#endif
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
