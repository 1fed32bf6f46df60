// Recognises the plain bodies of the three dialects, byte-strictly, and says where their one tensor lies.
//
// A plain body has its keys in the usual order, each once, and no others. Anything else is NO_FORM, and is the dialect's
// own decoder's to read or to refuse. What is recognised here means the same to that decoder. Nothing is allocated.
#pragma once
#include <cstdint>
#include <cstring>

#include "scanner.hpp"

namespace stfs {

enum Form : int {
    NO_FORM = 0,
    INSTANCES,   // {"instances": DATA}
    INPUTS,      // {"inputs": DATA}
    STFS_NAMED,  // {"model_name": MODEL, "model_version": VERSION, "data": {INPUT: DATA}}, the first two optional
    STFS_BARE,   // the same with "data": DATA
    OIP_INPUTS,  // {"inputs": [{"name": INPUT, "shape": [...], "datatype": DATATYPE, "data": DATA}]}
};

constexpr int MAX_PLAIN_DIMENSIONS = 8;

struct PlainBody {
    const char* model = nullptr;  // nullptr if the body names none
    int64_t model_size = 0;
    int64_t version = -1;
    const char* input = nullptr;
    int64_t input_size = 0;
    const char* datatype = nullptr;
    int64_t datatype_size = 0;
    int64_t shape[MAX_PLAIN_DIMENSIONS] = {};
    int ndim = 0;
    const char* data = nullptr;  // at the tensor's opening bracket
};

// A cursor that goes no further once something is not as it should be: then `p` means nothing any more.
struct PlainCursor {
    Scanner& s;
    const char* p;
    bool ok = true;

    bool is(char c) {
        if (!ok || !s.at(p = s.space(p), c)) return false;
        ++p;
        return true;
    }
    void want(char c) { ok = is(c) && ok; }
    // A string without escapes.
    void text(const char*& start, int64_t& size) {
        StringToken token;
        ok = ok && s.at(p = s.space(p), '"') && (p = s.string(p, token)) != nullptr && !token.escaped &&
             token.stop > token.start;
        if (!ok) return;
        start = token.start;
        size = token.stop - token.start;
    }
    // A key and its colon, if it is the one that comes next.
    bool key(const char* quoted, int64_t size) {
        if (!ok) return false;
        p = s.space(p);
        if (s.end - p < size || std::memcmp(p, quoted, size) != 0) return false;
        p += size;
        want(':');
        return ok;
    }
    template <int N>
    bool key(const char (&quoted)[N]) {
        return key(quoted, N - 1);
    }
    // A whole number that is not negative.
    void whole(int64_t& value) {
        if (!ok) return;
        p = s.space(p);
        NumberToken token;
        ok = p < s.end && is_digit(*p) && (p = s.number(p, token)) != nullptr && token.integral &&
             token.digits <= 18;
        if (ok) value = static_cast<int64_t>(token.mantissa);
    }
    bool at_list() { return ok && s.at(p = s.space(p), '['); }
};

inline Form plain_predict(Scanner& s, const char* p, PlainBody& body) {
    PlainCursor c{s, p};
    c.want('{');
    Form form = c.key("\"instances\"") ? INSTANCES : c.key("\"inputs\"") ? INPUTS : NO_FORM;
    if (form == NO_FORM || !c.at_list()) return NO_FORM;
    body.data = c.p;
    return form;
}

inline Form plain_stfs(Scanner& s, const char* p, PlainBody& body) {
    PlainCursor c{s, p};
    c.want('{');
    if (c.key("\"model_name\"")) {
        c.text(body.model, body.model_size);
        c.want(',');
    }
    if (c.key("\"model_version\"")) {
        c.whole(body.version);
        c.want(',');
    }
    if (!c.key("\"data\"")) return NO_FORM;
    Form form = STFS_BARE;
    if (c.is('{')) {
        form = STFS_NAMED;
        c.text(body.input, body.input_size);
        c.want(':');
    }
    if (!c.at_list()) return NO_FORM;
    body.data = c.p;
    return form;
}

inline Form plain_oip(Scanner& s, const char* p, PlainBody& body) {
    PlainCursor c{s, p};
    c.want('{');
    if (!c.key("\"inputs\"")) return NO_FORM;
    c.want('[');
    c.want('{');
    if (!c.key("\"name\"")) return NO_FORM;
    c.text(body.input, body.input_size);
    c.want(',');
    for (int i = 0; i < 2; ++i) {
        if (!body.datatype && c.key("\"datatype\"")) {
            c.text(body.datatype, body.datatype_size);
        } else if (!body.ndim && c.key("\"shape\"")) {
            c.want('[');
            do {
                if (body.ndim == MAX_PLAIN_DIMENSIONS) return NO_FORM;
                c.whole(body.shape[body.ndim++]);
            } while (c.is(','));
            c.want(']');
        } else {
            return NO_FORM;
        }
        c.want(',');
        if (!c.ok) return NO_FORM;
    }
    if (!c.key("\"data\"") || !c.at_list()) return NO_FORM;
    body.data = c.p;
    return OIP_INPUTS;
}

// Whether nothing but what a body of this form ends in follows its tensor.
inline bool plain_end(Scanner& s, const char* p, Form form) {
    PlainCursor c{s, p};
    c.want('}');
    if (form == STFS_NAMED) c.want('}');
    if (form == OIP_INPUTS) {
        c.want(']');
        c.want('}');
    }
    return c.ok && s.space(c.p) == s.end;
}

}  // namespace stfs
