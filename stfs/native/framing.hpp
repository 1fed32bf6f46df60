// Follows a message that aiohttp's parser is given piece by piece, to tell where it ends (RFC 9112, 6 and 7.1).
//
// That parser does not say whether it is in the midst of a head, so the bytes are counted here. Strict as headscan.hpp is,
// and for its reason, but wider: any method but CONNECT, any target, HTTP/1.0, every header that says nothing of lengths. What
// is told here must be what that parser takes for the end too, unless it refuses the message and closes the connection.
#pragma once
#include <cstdint>
#include <cstring>

#include "headscan.hpp"

namespace stfs::http {

struct Frame {
    int64_t body_at = 0;
    int64_t length = 0;
    bool chunked = false;
};

// How the body of the message that begins at start is framed. WHOLE: its head is all there; HEAD_SHORT; or OTHER: it cannot
// be told. An upgrade may end in another protocol, so it is OTHER.
inline Verdict scan_frame(const char* start, int64_t size, Frame& frame) {
    const char* p = start;
    const char* end = start + (size < kMaxHead ? size : kMaxHead);
    const Verdict at_end = size > kMaxHead ? OTHER : HEAD_SHORT;
    Verdict v;
    const auto ended = [at_end](Verdict verdict) { return verdict == HEAD_SHORT ? at_end : verdict; };
    while (p < end && *p == '\r') {  // empty lines before a request are passed over
        if ((v = expect_text(p, end, "\r\n", 2)) != WHOLE) return ended(v);
        p += 2;
    }
    const char* method = p;
    while (p < end && *p >= 'A' && *p <= 'Z') p++;
    if (p == end) return at_end;
    if (p == method || *p != ' ' || (p - method == 7 && !memcmp(method, "CONNECT", 7))) return OTHER;
    const char* target = ++p;
    while (p < end && (unsigned char)*p > 0x20 && *p != 0x7f) p++;
    if (p == end) return at_end;
    if (p == target) return OTHER;
    if ((v = expect_text(p, end, " HTTP/1.", 8)) != WHOLE) return ended(v);
    p += 8;
    if (p == end) return at_end;
    if (*p != '0' && *p != '1') return OTHER;
    const bool is_first = *p == '0';
    if ((v = expect_text(++p, end, "\r\n", 2)) != WHOLE) return ended(v);
    p += 2;
    int64_t length = -1;
    bool chunked = false;
    for (;;) {
        if (p == end) return at_end;
        if (*p == '\r') {
            if ((v = expect_text(p, end, "\r\n", 2)) != WHOLE) return ended(v);
            p += 2;
            break;
        }
        Header h;
        if ((v = scan_header<true>(p, end, h)) != WHOLE) return ended(v);
        if (h.called("upgrade")) return OTHER;
        if (h.called("content-length") && (length >= 0 || (length = content_length(h)) < 0)) return OTHER;
        if (h.called("transfer-encoding")) {
            if (chunked || is_first || h.value_size != 7 || !same_name(h.value, "chunked", 7)) return OTHER;
            chunked = true;
        }
    }
    if (chunked && length >= 0) return OTHER;
    frame.body_at = p - start;
    frame.length = length < 0 ? 0 : length;
    frame.chunked = chunked;
    return WHOLE;
}

// Where in the chunks of a body the last byte lay. Extensions and trailers are LOST: they are hardly ever sent.
class Chunks {
  public:
    enum Place { SIZE, SIZE_END, DATA, DATA_CR, DATA_LF, LAST_CR, LAST_LF, DONE, LOST };
    Place place = SIZE;

    // The end of the body's bytes in p..end.
    const char* follow(const char* p, const char* end) {
        while (p < end && place < DONE) {
            switch (place) {
                case SIZE: {
                    const int digit = hex(*p);
                    if (digit >= 0 && digits_ < 8) {
                        left_ = left_ * 16 + digit;
                        digits_++;
                        p++;
                    } else {
                        want(p, '\r', digits_ ? SIZE_END : LOST);
                    }
                    break;
                }
                case SIZE_END: want(p, '\n', left_ ? DATA : LAST_CR); break;
                case DATA: {
                    const int64_t some = end - p < left_ ? end - p : left_;
                    p += some;
                    left_ -= some;
                    if (!left_) place = DATA_CR;
                    break;
                }
                case DATA_CR: want(p, '\r', DATA_LF); break;
                case DATA_LF:
                    want(p, '\n', SIZE);
                    digits_ = 0;
                    break;
                case LAST_CR: want(p, '\r', LAST_LF); break;
                default: want(p, '\n', DONE);
            }
        }
        return p;
    }

  private:
    int64_t left_ = 0;
    int digits_ = 0;

    void want(const char*& p, char c, Place then) { place = *p++ == c ? then : LOST; }

    static int hex(char c) {
        if (c >= '0' && c <= '9') return c - '0';
        c |= 0x20;
        return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    }
};

}  // namespace stfs::http
