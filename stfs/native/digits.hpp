// Whole numbers as decimal text, without a loop over digits. Knows bytes only.
//
// Every writer stores whole words, so it needs more room than it fills: MAX_NUMBER_BYTES.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace stfs {

// The longest number has 24; the rest is slack for stores of a fixed size, which cost less than exact ones.
constexpr size_t MAX_NUMBER_BYTES = 48;

constexpr uint64_t ASCII_ZEROS = 0x3030303030303030u;

constexpr uint64_t POW10_WHOLE[20] = {1u,
                                      10u,
                                      100u,
                                      1000u,
                                      10000u,
                                      100000u,
                                      1000000u,
                                      10000000u,
                                      100000000u,
                                      1000000000u,
                                      10000000000u,
                                      100000000000u,
                                      1000000000000u,
                                      10000000000000u,
                                      100000000000000u,
                                      1000000000000000u,
                                      10000000000000000u,
                                      100000000000000000u,
                                      1000000000000000000u,
                                      10000000000000000000u};

// The lowest byte goes first.
inline void store8(char* o, uint64_t bytes) {
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    bytes = __builtin_bswap64(bytes);
#endif
    std::memcpy(o, &bytes, 8);
}

// The eight digits of n < 10^8, leading zeros and all, a byte each with the first in the lowest: by halves, then both
// halves' pairs at once, then all the pairs' digits. A quotient q of x by d goes below its remainder in one step, since
// q + (x - d * q) * 2^s = x * 2^s - q * (d * 2^s - 1). The other factors are the usual reciprocals, wide enough for each.
inline uint64_t eight_bytes(uint32_t n) {
    const uint64_t whole = n;
    const uint64_t fours = (whole << 32) - whole * 109951163 / (UINT64_C(1) << 40) * ((UINT64_C(10000) << 32) - 1);
    const uint64_t hundreds = (fours * 10486 >> 20) & 0x0000007F0000007Fu;
    const uint64_t pairs = (fours << 16) - hundreds * ((100 << 16) - 1);
    const uint64_t tens = (pairs * 103 >> 10) & 0x000F000F000F000Fu;
    return (pairs << 8) - tens * ((10 << 8) - 1);
}

// How many digits n has; 1 for 0.
inline int digit_count(uint64_t n) {
    const int guess = (64 - __builtin_clzll(n | 1)) * 1233 >> 12;  // log10 of the next power of two: never too large
    return guess + (n >= POW10_WHOLE[guess]) + (n == 0);
}

// The text of every byte, and in the last place its length.
struct ByteTexts {
    std::array<std::array<char, 4>, 256> of{};
    constexpr ByteTexts() {
        for (int n = 0; n < 256; ++n) {
            auto& text = of[static_cast<size_t>(n)];
            size_t length = 0;
            if (n >= 100) text[length++] = static_cast<char>('0' + n / 100);
            if (n >= 10) text[length++] = static_cast<char>('0' + n / 10 % 10);
            text[length++] = static_cast<char>('0' + n % 10);
            text[3] = static_cast<char>(length);
        }
    }
};

inline constexpr ByteTexts BYTE_TEXTS{};

inline char* write_byte(uint64_t n, char* o) {
    const auto& text = BYTE_TEXTS.of[n];
    std::memcpy(o, text.data(), 4);
    return o + text[3];
}

inline char* write_whole(uint64_t n, char* o) {
    if (n >= 100000000) {
        const uint64_t rest = n / 100000000;
        o = rest < 256 ? write_byte(rest, o) : write_whole(rest, o);
        store8(o, eight_bytes(static_cast<uint32_t>(n - rest * 100000000)) | ASCII_ZEROS);
        return o + 8;
    }
    const uint64_t bytes = eight_bytes(static_cast<uint32_t>(n));
    const int zeros = __builtin_ctzll(bytes | UINT64_C(1) << 56) >> 3;  // the last digit stands even if it is 0
    store8(o, (bytes | ASCII_ZEROS) >> (8 * zeros));
    return o + 8 - zeros;
}

template <class I>
inline char* write_integer(I x, char* o) {
    uint64_t size;
    if constexpr (std::is_signed_v<I>) {
        *o = '-';
        o += x < 0;
        const auto wide = static_cast<uint64_t>(static_cast<int64_t>(x));
        size = x < 0 ? UINT64_C(0) - wide : wide;
    } else {
        size = x;
    }
    if constexpr (sizeof(I) == 1) {
        return write_byte(size, o);
    } else {
        return write_whole(size, o);
    }
}

}  // namespace stfs
