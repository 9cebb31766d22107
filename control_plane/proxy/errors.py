"""Every answer this proxy gives in its own name: one table of code, status, words, and what the owner can do.

The code is stable and public: it is the `X-Vitrine-Error` header, the `code` of JSON answers, and a field of the access log.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Answer:
    """`retry_after_s` of 0 means no Retry-After header."""

    status: int
    title: str
    words: str
    fix: str = ""
    retry_after_s: int = 0


class Code(Enum):
    """The name of a member is its public code."""

    BAD_REQUEST_LINE = Answer(400, "Bad request", "The first line of the request is not valid HTTP/1.1.")
    BAD_HEADER = Answer(400, "Bad request", "A header of the request holds characters that HTTP does not allow.")
    BAD_HOST = Answer(400, "Bad request", "The request must name exactly one valid host.")
    BAD_FRAMING = Answer(400, "Bad request", "The length of the request body is ambiguous.", "Send either one Content-Length or chunked.")
    BAD_CHUNK = Answer(400, "Bad request", "The chunked body of the request is not valid.")
    BAD_UPGRADE = Answer(400, "Bad request", "The WebSocket handshake is not valid (RFC 6455 section 4.1).")
    NOT_FOUND = Answer(
        404,
        "Nothing is on show here",
        "No Space has this address, or it is not shared with you.",
        "Check the spelling, or sign in on the platform with an account that may see it.",
    )
    INTERNAL_PATH = Answer(404, "Not found", "This path is not reachable from outside.")
    METHOD_REFUSED = Answer(405, "Method refused", "CONNECT and TRACE are not passed on.")
    CLIENT_TIMEOUT = Answer(408, "Request timed out", "The request did not arrive in time.")
    BODY_TOO_LARGE = Answer(413, "Body too large", "The request body is over the limit of this platform.")
    TARGET_TOO_LONG = Answer(414, "Address too long", "The address of the request is over the limit.")
    EXPECTATION_FAILED = Answer(417, "Expectation failed", "Only `Expect: 100-continue` is understood.")
    MISDIRECTED = Answer(
        421,
        "Wrong server",
        "This host name does not belong to this platform.",
        "An operator sets the domain of Spaces with VITRINE_APPS_DOMAIN.",
    )
    RATE_LIMITED = Answer(
        429,
        "Too many requests",
        "This client sends more requests than the platform allows.",
        "Slow down; the limit refills every second.",
        1,
    )
    SPACE_RATE_LIMITED = Answer(
        429, "This Space is busy", "This Space gets more requests than the platform allows for one Space.", "Try again in a moment.", 1
    )
    TOO_MANY_CONNECTIONS = Answer(
        429, "Too many connections", "This client holds more connections than the platform allows.", "Close some, or reuse them.", 5
    )
    HEADERS_TOO_LARGE = Answer(
        431,
        "Headers too large",
        "The request has too many headers, or one is too long.",
        "Clearing the cookies of this site usually helps.",
    )
    APP_REFUSED = Answer(
        502,
        "The app does not accept connections",
        "The Space is live but its app refused the connection.",
        "It may be restarting; the Space's log tells more.",
        5,
    )
    APP_RESET = Answer(502, "The app hung up", "The app closed the connection before it answered.", "The Space's log usually shows why.", 5)
    APP_BAD_ANSWER = Answer(
        502,
        "The app's answer is not HTTP",
        "The app answered with something that cannot be passed on safely.",
        "The app must answer valid HTTP/1.1 on its port.",
    )
    APP_HEAD_TOO_LARGE = Answer(
        502,
        "The app's headers are too large",
        "The head of the app's answer is over the limit.",
        "Send fewer or smaller headers and cookies.",
    )
    APP_CONNECT_TIMEOUT = Answer(
        504,
        "The app cannot be reached",
        "No connection to the app within the time limit.",
        "It may be overloaded; the Space's log tells more.",
        10,
    )
    APP_TIMEOUT = Answer(
        504,
        "The app took too long",
        "The app did not begin to answer within the time limit.",
        "Long work belongs in a queue or a stream that answers at once.",
    )
    SPACE_ASLEEP = Answer(
        503, "Asleep", "This Space sleeps, and neither heartbeats of open tabs nor health probes wake it.", "Any other visit wakes it.", 60
    )
    SPACE_STARTING = Answer(503, "Waking up", "This Space is starting; it answers as soon as it is ready.", "", 3)
    WAKE_TIMEOUT = Answer(
        503,
        "Still not awake",
        "The Space did not start within the time a request may wait.",
        "It keeps starting; try again, or look at the Space's page.",
        10,
    )
    WAKE_QUEUE_FULL = Answer(
        503, "Many are waiting", "More requests wait for this Space to wake than it may hold.", "Try again shortly.", 5
    )
    WAKE_REFUSED = Answer(
        503, "Kept asleep", "A quota of its owner keeps this Space asleep.", "Its page says which one; a later visit asks again.", 30
    )
    PROXY_QUEUE_FULL = Answer(
        503, "Many are waiting", "More requests wait for sleeping Spaces than this server may hold.", "Try again shortly.", 5
    )
    SPACE_PAUSED = Answer(
        503, "Paused", "The owner paused this Space; a visit does not wake it.", "Its owner can restart it from its page.", 300
    )
    SPACE_FAILED = Answer(503, "Not running", "This Space does not run at the moment.", "Its owner finds the reason in its log.", 30)
    SPACE_EMPTY = Answer(503, "Nothing here yet", "This Space exists, but no app was ever deployed to it.", "Push an app to go live.", 30)
    NO_REPLICA = Answer(503, "No replica answers", "The Space is live but none of its replicas is known.", "This heals by itself.", 3)
    ROUTES_UNKNOWN = Answer(503, "Starting", "This server has just started and does not know the Spaces yet.", "", 2)
    GUARD_UNAVAILABLE = Answer(
        503, "Access cannot be checked", "The platform cannot say right now whether you may see this.", "Nothing is shown until it can.", 5
    )
    PLATFORM_UNAVAILABLE = Answer(503, "The platform is not answering", "Running Spaces keep serving; pages and git return shortly.", "", 5)
    DRAINING = Answer(503, "Restarting", "This server is handing over to its successor.", "Try again.", 1)
    HTTP_VERSION = Answer(505, "HTTP version", "Only HTTP/1.0 and HTTP/1.1 are spoken here.")
    # These never leave as an answer: the head of another one had left already. They appear in the access log.
    APP_CUT_SHORT = Answer(502, "Cut short", "The app closed the connection in the middle of its answer.")
    ACCESS_ENDED = Answer(403, "Access ended", "The right to this Space was taken away while the exchange was open.")
    CLIENT_STALLED = Answer(408, "Client stalled", "The client stopped taking the answer before it was complete.")
    CLIENT_LEFT = Answer(499, "Client left", "The client closed the connection before the answer was complete.")
