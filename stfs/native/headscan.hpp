// Recognises one plain HTTP/1.1 request at the start of a buffer (RFC 9112), and nothing else.
//
// Strict on purpose: whatever is unusual in the least (another version, another connection option, a transfer coding, an
// expectation, a folded line, a byte outside visible ASCII) is OTHER, and goes to aiohttp's own parser untouched. So what
// is accepted here must be a subset of what that parser accepts, with the same meaning.
#pragma once
#include <cstdint>
#include <cstring>
#include <initializer_list>

namespace stfs::http {

enum Verdict { OTHER = 0, WHOLE = 1, HEAD_SHORT = 2, BODY_SHORT = 3 };

struct Span {
    int64_t at = -1;  // offset from the start of the buffer; -1 for a header that is not there
    int64_t size = 0;
};

struct Head {
    bool is_post = false;
    bool asks_more = false;  // a header is there that only the stock path heeds: a time limit, a priority, a Server-Timing, an origin
    Span path, content_type, authorization, accept_encoding, request_id, traceparent, inference_header;
    int64_t body_at = 0;
    int64_t total = 0;  // bytes of head and body
};

// aiohttp allows 8190 bytes for a line and 128 headers; a little less here, so that its own limits decide near them.
constexpr int64_t kMaxField = 8000;
constexpr int kMaxHeaders = 100;
constexpr int64_t kMaxHead = 16384;  // a head that dribbles in is scanned anew each time, so its length is bounded

struct TokenTable {
    bool is[256] = {};
    constexpr TokenTable() {
        for (int c = '0'; c <= '9'; c++) is[c] = true;
        for (int c = 'a'; c <= 'z'; c++) is[c] = is[c - 32] = true;
        for (char c : {'!', '#', '$', '%', '&', '\'', '*', '+', '-', '.', '^', '_', '`', '|', '~'}) is[(unsigned char)c] = true;
    }
};
inline constexpr TokenTable kToken{};  // RFC 9110, 5.6.2

inline bool same_name(const char* name, const char* lower, size_t size) {
    for (size_t i = 0; i < size; i++) {
        char c = name[i];
        if (c >= 'A' && c <= 'Z') c |= 32;
        if (c != lower[i]) return false;
    }
    return true;
}

// The first byte from s on that is neither visible ASCII nor a blank.
inline const char* visible_run(const char* s, const char* end) {
    constexpr uint64_t ones = 0x0101010101010101u, highs = 0x80 * ones;
    for (; end - s >= 8; s += 8) {
        uint64_t v;
        memcpy(&v, s, 8);
        // Below a blank, 0x7f, or above it. Borrows and carries only disturb the bytes after the first hit.
        const uint64_t hit = (((v - 0x20 * ones) & ~v) | (v + ones) | v) & highs;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        if (hit) return s + (__builtin_ctzll(hit) >> 3);
#else
        if (hit) break;
#endif
    }
    while (s < end && *s >= 0x20 && *s < 0x7f) s++;
    return s;
}

struct Header {
    const char* name;
    size_t name_size;
    const char* value;
    int64_t value_size;
    // The name in lower case; a template, so that the length is known where it is compared.
    template <size_t N>
    bool called(const char (&lower)[N]) const {
        return name_size == N - 1 && same_name(name, lower, N - 1);
    }
};

// One "name: value" line at p. WHOLE, HEAD_SHORT or OTHER; p moves behind the line if WHOLE. With `any_text` the value may
// hold bytes above ASCII.
template <bool any_text = false>
inline Verdict scan_header(const char*& p, const char* end, Header& h) {
    const char* s = p;
    while (s < end && kToken.is[(unsigned char)*s]) s++;
    if (s - p > kMaxField) return OTHER;
    if (s == end) return HEAD_SHORT;
    if (s == p || *s != ':') return OTHER;
    h.name = p;
    h.name_size = s - p;
    s++;
    while (s < end && (*s == ' ' || *s == '\t')) s++;
    h.value = s;
    for (;; s++) {
        s = visible_run(s, end);
        if (s == end || !(*s == '\t' || (any_text && (unsigned char)*s >= 0x80))) break;
    }
    if (s - p > kMaxField) return OTHER;
    if (s == end) return HEAD_SHORT;
    if (*s != '\r') return OTHER;
    if (s + 1 == end) return HEAD_SHORT;
    if (s[1] != '\n') return OTHER;
    h.value_size = s - h.value;
    while (h.value_size && (h.value[h.value_size - 1] == ' ' || h.value[h.value_size - 1] == '\t')) h.value_size--;
    p = s + 2;
    return WHOLE;
}

// A number of bytes, digits only; -1 for anything else. Twelve digits are more than any body that is taken.
inline int64_t content_length(const Header& h) {
    if (h.value_size < 1 || h.value_size > 12) return -1;
    int64_t n = 0;
    for (int64_t i = 0; i < h.value_size; i++) {
        if (h.value[i] < '0' || h.value[i] > '9') return -1;
        n = n * 10 + (h.value[i] - '0');
    }
    return n;
}

// "needle" is at p; HEAD_SHORT if the buffer ends before that is decided.
inline Verdict expect_text(const char* p, const char* end, const char* needle, size_t size) {
    const size_t have = end - p < (int64_t)size ? end - p : size;
    if (memcmp(p, needle, have)) return OTHER;
    return have < size ? HEAD_SHORT : WHOLE;
}

inline Verdict scan_head_within(const char* start, int64_t size, Head& head) {
    const char* p = start;
    const char* end = start + size;
    if (size == 0) return HEAD_SHORT;
    head.is_post = *p == 'P';
    Verdict v = head.is_post ? expect_text(p, end, "POST ", 5) : expect_text(p, end, "GET ", 4);
    if (v != WHOLE) return v;
    p += head.is_post ? 5 : 4;
    head.path.at = p - start;
    while (p < end && *p > 0x20 && *p < 0x7f && *p != '?' && *p != '#') p++;
    head.path.size = (p - start) - head.path.at;
    if (head.path.size > kMaxField) return OTHER;
    if (p < end && head.path.size == 0) return OTHER;
    if (head.path.size && start[head.path.at] != '/') return OTHER;
    if ((v = expect_text(p, end, " HTTP/1.1\r\n", 11)) != WHOLE) return v;
    p += 11;
    int64_t length = -1;
    int hosts = 0;
    unsigned seen = 0;  // a bit for each header that aiohttp refuses to meet twice and that nothing is done with here
    const auto again = [&seen](unsigned bit) { return seen & bit ? true : (seen |= bit, false); };
    for (int headers = 0;; headers++) {
        if (p == end) return HEAD_SHORT;
        if (*p == '\r') {
            if ((v = expect_text(p, end, "\r\n", 2)) != WHOLE) return v;
            p += 2;
            break;
        }
        if (headers == kMaxHeaders) return OTHER;
        Header h;
        if ((v = scan_header(p, end, h)) != WHOLE) return v;
        const auto once = [&](Span& span) {
            if (span.at >= 0) return false;
            span = {h.value - start, h.value_size};
            return true;
        };
        switch (h.name_size) {
            case 2: if (h.called("te")) return OTHER; break;
            case 4:
                if (h.called("host") && ++hosts > 1) return OTHER;
                if (h.called("etag") && again(1)) return OTHER;
                break;
            case 6:
                if (h.called("expect") || (h.called("server") && again(2))) return OTHER;
                if (h.called("origin")) head.asks_more = true;
                break;
            case 7: if (h.called("upgrade") || h.called("trailer")) return OTHER; break;
            case 10:
                if (h.called("connection") && !(h.value_size == 10 && same_name(h.value, "keep-alive", 10))) return OTHER;
                if (h.called("user-agent") && again(4)) return OTHER;
                break;
            case 11:
                if (h.called("traceparent") && !once(head.traceparent)) return OTHER;
                break;
            case 12:
                if (h.called("x-request-id") && !once(head.request_id)) return OTHER;
                if (h.called("content-type")) {
                    if (head.content_type.at >= 0) return OTHER;
                    head.content_type = {h.value - start, h.value_size};
                }
                if (h.called("max-forwards") && again(8)) return OTHER;
                break;
            case 13:
                if (h.called("authorization")) {
                    if (head.authorization.at >= 0) return OTHER;
                    head.authorization = {h.value - start, h.value_size};
                }
                if (h.called("content-range") && again(16)) return OTHER;
                break;
            case 14:
                if (h.called("content-length")) {
                    if (length >= 0 || (length = content_length(h)) < 0) return OTHER;
                }
                break;
            case 15:
                if (h.called("accept-encoding") && !once(head.accept_encoding)) return OTHER;
                if (h.called("x-server-timing")) head.asks_more = true;
                break;
            case 16:
                if (h.called("content-encoding") || h.called("proxy-connection")) return OTHER;
                if (h.called("content-location") && again(32)) return OTHER;
                break;
            case 17: if (h.called("transfer-encoding")) return OTHER; break;
            case 18:
                if (h.called("sec-websocket-key1")) return OTHER;
                if (h.called("x-request-priority")) head.asks_more = true;
                break;
            case 20: if (h.called("x-request-timeout-ms")) head.asks_more = true; break;
            case 31:
                if (h.called("inference-header-content-length") && !once(head.inference_header)) return OTHER;
                break;
        }
    }
    if (hosts != 1 || head.is_post == (length < 0)) return OTHER;  // a POST says its length, a GET has no body
    if (length < 0) length = 0;
    head.body_at = p - start;
    head.total = head.body_at + length;
    return end - start < head.total ? BODY_SHORT : WHOLE;
}

inline Verdict scan_head(const char* start, int64_t size, Head& head) {
    const Verdict v = scan_head_within(start, size, head);
    const int64_t head_size = v == HEAD_SHORT ? size : head.body_at;
    return v != OTHER && head_size > kMaxHead ? OTHER : v;
}

}  // namespace stfs::http
