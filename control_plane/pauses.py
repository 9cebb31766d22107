"""A process that answers requests must not stop for tens of milliseconds to collect garbage."""

from __future__ import annotations

import gc


def shorten_pauses() -> None:
    """To be called once everything is set up: what the start made is frozen out of collections, and those become rare.

    A full collection of a platform process looks at half a million objects, in the middle of traffic.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)
