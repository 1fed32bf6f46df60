from typing import Any

from stfs.web.hot import HotHandler
from stfs.web.hot_shared import HotPath

class Express:
    """What the express lanes of one server share. ``taken`` counts the requests that went there."""

    taken: int
    def __init__(self, hot: HotPath) -> None: ...

class ExpressHandler(HotHandler):
    """A connection whose requests are tried on the express lanes first."""

    def __init__(self, express: Express, hot: HotPath, *args: Any, **kwargs: Any) -> None: ...
