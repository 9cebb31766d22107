"""What other rooms say, in the reader's language: sentence by sentence where the catalogue has them, else by their code.

Errors and reasons come as English sentences, some with names and figures in them. `SAID` are those that people meet on
pages, with their blanks; a test holds them against the code that says them. Everything else is said by its code, and the
English words stand below it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest

from control_plane.domain.reasons import Reason
from web.catalog import Catalog, figures

_FIGURE = re.compile(r"\$?[0-9][0-9.,]*(?:%| [kMGT]?B)?")
_LONGEST = 400  # characters; what is longer is a tool's output and no sentence of ours
_BLANK = re.compile(r"\{([a-z]+)\}")
_FILLED = {"x": "[0-9.,]+%?", "when": ".*?"}
_WORDS = frozenset(("asked", "how", "limit", "size", "span", "used", "when", "x"))  # blanks that hold words or figures of their own

SAID: tuple[str, ...] = (
    "No node pool of this platform serves the hardware '{flavor}'.",
    "No machine for the hardware '{flavor}' yet; it starts when one joins. Place {position} of the queue.",
    "An idle Space makes room for it on '{flavor}'.",
    "All machines for the hardware '{flavor}' are in use. Place {position} in the queue.",
    "All machines for the hardware '{flavor}' are in use. Place {position} in the queue, about {span}.",
    "hardware {flavor} is not offered any more",
    "it was not there any more",
    "the app listens on {others}, not on {port}; bind {address}",
    "the app answers {status}; any answer below 500 counts as healthy",
    "nothing listened on port {port} within {span} s",
    "It slept to make room for another Space; a visit wakes it.",
    "It left so that its newer version has room.",
    "The app ended {how}.",
    "The app exited with code {code}.",
    "The app used more memory than its hardware has and was stopped. It was ended {how}.",
    "waiting for its first answer",
    "a build slot was free",
    "generation {number}",
    "{x} ms",
    "{x} s",
    "{x} min",
    "{x} h",
    "{x} d",
    "place {x} in line",
    "{size} in",
    "of {x} vCPU",
    "of {x} GB",
    "This form was sent from another site, so nothing was done.",
    "Sign in first.",
    "Sign in first: send a token as `Authorization: Bearer hf_…`.",
    "There is no page at this address.",
    "'{name}' is not a file name that can be used here",
    "choose at least one file",
    "This file is binary or large; change it with git.",
    "{name} is over 8 MB; push it with git and LFS",
    "Nothing was deleted: type {name} to confirm.",
    "This platform does not take new accounts by itself; ask an operator.",
    "This platform does not import from other git servers.",
    "You cannot suspend yourself.",
    "There is no such collection.",
    "There is no such notification.",
    "Discussions are switched off for this repository.",
    "Only its author and people with write rights may close or open it.",
    "{name} is not a file",
    "the content of this large file was never uploaded",
    "there is no branch '{name}'",
    "That revision has links or submodules; bring it back with git: git revert.",
    "Only members of {name} see its settings.",
    "Only admins of {name} may change who is in it.",
    "{name} is not a member of {org}.",
    "{name} is the last admin of {org}; make somebody else admin first",
    "there is no such session",
    "there is no such build of this Space",
    "'{name}' is not a valid {what}: 1 to 96 letters, digits, '-', '_' and '.', without '--' or '..', not beginning or ending with '-' or '.', not ending in '.git'",  # noqa: E501
    "'{name}' is not a usable name: 1 to 96 letters, digits, '-', '_' or '.', without '--' or '..', not starting or ending with '-' or '.', not ending in '.git'",  # noqa: E501
    "the {what} '{name}' is kept for the platform; choose another",
    "'{name}' is not an e-mail address",
    "a full name has at most 200 printable characters",
    "there is no {kind} '{name}'",
    "{who} is not allowed to {act} {name}; ask its owner for the right.",
    "You don't have the rights to create a repository under the namespace '{name}'.",
    "a password needs {least} characters or more, and at most {most} bytes",
    "Too many failed tries; wait {span} seconds and try again.",
    "This account is suspended; an operator can lift that.",
    "a token needs a name of 1 to {most} printable characters",
    "{name} has {count} tokens already; revoke some first",
    "This sign-in link was used already or is too old; ask for a new one.",
    "this code is unknown, was used already, or is too old; start again on the device",
    "the title of a collection has 1 to {most} characters",
    "This collection exists already",
    "This item is in the collection already",
    "a title has 1 to 200 characters",
    "a comment has 1 to {most} characters",
    "this pull request is merged; open a new one for further changes",
    "this pull request is {status}",
    "both sides changed {files}; bring main into the pull request first",
    "'{key}' is not a usable key: letters, digits and '_', not starting with a digit, at most 128 characters",
    "unknown hardware '{flavor}'; allowed: {others}",
    "replicas is 1 to 20; got {count}",
    "a static Space needs no hardware",
    "a static Space cannot be paused: nothing runs for it",
    "a static Space runs nothing, so it needs no persistent storage",
    "Fetching what is mounted at {path}: {x}",
    "nothing is mounted at {path}",
    "a Space mounts at most {most} volumes; remove one first",
    "the owner's account is suspended; an operator can lift that",
    "storage does not shrink: {size} is larger than {other}; delete the storage, with what it holds, and ask for a smaller one",
    "{key} is already a {kind} of this Space; delete it there first",
    "only Spaces can be protected; use public or private",
    "You already created this {kind} repo",
    "A {kind} repo {name} already exists; choose another name",
    "Quota '{key}' of {subject} is reached: limit {limit}, in use {used}, this asks for {asked} more{when}. {how}",
    "; it resets at {date}",
    "Wait for the new month or ask an operator to raise '{key}' of {name}.",
    "Delete a Space or ask an operator to raise '{key}' of {name}.",
    "Delete files or repositories or ask an operator to raise '{key}' of {name}.",
    "Pause a running Space or let one fall asleep, or ask an operator to raise '{key}' of {name}.",
    "This is switched off for the account; choose something else or ask an operator to raise '{key}' of {name}.",
    "This is switched off for the organisation; choose something else or ask an operator to raise '{key}' of {name}.",
    "The platform is in maintenance: {words}",
)

# Codes of errors (`control_plane.domain.errors`), each in a sentence of the catalogue.
CODES: dict[str, str] = {
    "BadRequest": "The platform cannot do this as it was asked.",
    "Unauthorized": "Sign in first.",
    "Forbidden": "You have no right to do this.",
    "GatedRepo": "Access to the files of this repository is restricted",
    "NotFound": "It is not there, or not open to you.",
    "RepoNotFound": "There is no such repository, or it is not open to you.",
    "RevisionNotFound": "There is no such revision.",
    "EntryNotFound": "There is no such file or folder in this revision.",
    "UserNotFound": "There is no such user.",
    "RequestNotFound": "There is no such request, or it was decided already.",
    "NameTaken": "This name is taken; choose another.",
    "TooLarge": "It is larger than what is taken here.",
    "QuotaExceeded": "A quota is reached",
    "SpaceConfigError": "The README front matter has a mistake; fix it and push again.",
    "Conflict": "Something changed meanwhile; load the page again.",
    "StaleGeneration": "Something changed meanwhile; load the page again.",
    "StaleParent": "The branch moved on since you opened this page; load it again.",
    "IllegalTransition": "This cannot be done in its present state.",
    "Unavailable": "Not now; try again in a moment.",
    "NoCapacity": "No machine of this hardware is free yet; it starts as soon as one is.",
    "Maintenance": "The platform is in maintenance; changes wait, reading works.",
    "RateLimited": "Too many tries; wait a moment.",
    "NotSupported": "This platform does not do this.",
    "NoEarlierVersion": "There is no earlier version to go back to.",
    "InvalidPath": "This file name cannot be used.",
    "InvalidCommit": "The commit cannot be made like this.",
}


@dataclass(frozen=True, slots=True)
class Saying:
    """`text` in the reader's language, and the English `original` where that says more; either may be ""."""

    text: str
    original: str = ""


def say(t: Catalog, words: str, code: str = "") -> Saying:
    """`words` of another room with the code of their error or reason."""
    if known := said(t, words):
        return Saying(known)
    general = CODES.get(code) or (Reason(code).words if code in _REASONS else "")
    if t.language == "en":
        return Saying(words or general)
    return Saying(t(general) if general else "", words)


def said(t: Catalog, words: str) -> str:
    """One sentence in the reader's language, "" when this catalogue does not have it."""
    if t.language == "en" or not words:
        return words
    if _FIGURE.fullmatch(words):
        return figures(words, t.language)
    if words in t.entries:
        return t(words)
    if len(words) > _LONGEST:
        return ""
    for sentence, shape in _shapes():
        if (found := shape.fullmatch(words)) and sentence in t.entries:
            return t(sentence, **{name: (said(t, text) or text) if name in _WORDS else text for name, text in found.groupdict().items()})
    return ""


_REASONS = frozenset(reason.value for reason in Reason)


@cache
def _shapes() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Sentences with blanks, the most telling one first."""
    with_blanks = sorted((s for s in SAID if "{" in s), key=lambda s: -sum(map(len, _BLANK.split(s)[::2])))
    return tuple((sentence, _shape(sentence)) for sentence in with_blanks)


def _shape(sentence: str) -> re.Pattern[str]:
    """What the sentence looks like when its blanks are filled; `x` stands for a figure, `when` for something or nothing."""
    parts = _BLANK.split(sentence)  # text, name, text, …
    blanks = (f"(?P<{name}>{_FILLED.get(name, '.+?')})" for name in parts[1::2])
    texts = (re.escape(text) for text in parts[::2])
    return re.compile("".join(text + blank for text, blank in zip_longest(texts, blanks, fillvalue="")), re.DOTALL)
