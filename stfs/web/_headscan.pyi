OTHER: int
WHOLE: int
HEAD_SHORT: int
BODY_SHORT: int

class Head:
    is_post: bool
    asks_more: bool
    path: bytes
    content_type: bytes | None
    authorization: bytes | None
    accept_encoding: bytes | None
    request_id: bytes | None
    traceparent: bytes | None
    inference_header: bytes | None
    body_at: int
    total: int
    def scan(self, data: bytes | bytearray | memoryview) -> int: ...

class Frame:
    done: bool
    def take(self, data: bytes) -> int: ...
