"""What stands on the memory platform: its Spaces, files, lines and words, and who may change them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from control_plane.domain.accounts import Actor
from control_plane.domain.errors import Forbidden, NotSignedIn, RepoNotFound
from web.views import SpaceCard, StageBadge, Timeline, TimelineStep

NOW = datetime(2026, 8, 1, 12, 0, tzinfo=UTC)
SHA = "3f2a91c" + "0" * 33
NEW = "9b1c0de" + "1" * 33
README = """# Marginalia

Ask a book a question, and read the answer **in the book's own words**, with the page it stands on.

- works offline
- keeps no question

```python
from marginalia import ask
ask("What does the whale stand for?", book="moby-dick.txt")
```

| Book | Pages | Answers in |
|---|---:|---:|
| Moby-Dick | 635 | 0.8 s |
| Middlemarch | 880 | 1.1 s |
"""
APP = '''"""Ask a book, get its own words back with the page."""

import gradio as gr

from index import Index

INDEX = Index.load("books")


def ask(question: str, book: str = "all") -> str:
    """The passage that answers best, quoted, with its page."""
    hit = INDEX.search(question, book=book, k=1)[0]
    return f"{hit.text!r}, page {hit.page}"


gr.Interface(ask, ["text", gr.Dropdown(INDEX.titles)], "text", title="Marginalia").launch()
'''
DIFF = """diff --git a/app.py b/app.py
index 1111111..2222222 100644
--- a/app.py
+++ b/app.py
@@ -10,4 +10,5 @@ INDEX = Index.load("books")
 def ask(question: str, book: str = "all") -> str:
-    hit = INDEX.search(question)[0]
-    return hit.text
+    \"\"\"The passage that answers best, quoted, with its page.\"\"\"
+    hit = INDEX.search(question, book=book, k=1)[0]
+    return f"{hit.text!r}, page {hit.page}"
"""
LONG = "a-name-" + "without-an-end-" * 5 + "here"
RUN = StageBadge("RUNNING", "run", "Running")
# ruff: noqa: E501
_SHOW = (
    ("mira", "whisper-notes", "Whisper Notes", "🎙️", "red", "red", "Turn a meeting into minutes, with speakers.", "gradio", "t4-small", RUN, 212),
    ("lab-oslo", "stitch-stable", "Stitch Stable", "🪡", "green", "green", "Pattern repair for knitted textiles from one photo.", "gradio", "a10g-small", StageBadge("SLEEPING", "sleep", "Asleep", "wakes when you knock"), 148),
    ("city-data", "isochrones", "Isochrone Explorer", "🗺️", "indigo", "indigo", "How far you get in thirty minutes, anywhere.", "streamlit", "cpu-basic", RUN, 97),
    ("structbio", "fold-viewer", "Fold Viewer", "🧬", "yellow", "yellow", "Compare predicted folds side by side in the browser.", "docker", "cpu-upgrade", StageBadge("BUILDING", "work", "Building"), 61),
    ("noisebox", "stems", "Stem Splitter", "🎧", "purple", "purple", "Vocals, drums, bass, and the rest.", "gradio", "a100-large", RUN, 420),
    ("numen", "proof-sketch", "Proof Sketch", "📐", "blue", "blue", "A whiteboard that checks the next step.", "static", "cpu-basic", RUN, 33),
    ("agri-ai", "crop-doctor", "Crop Doctor", "🌾", "yellow", "green", "Leaf photo to diagnosis, works offline.", "gradio", "t4-medium", StageBadge("RUNTIME_ERROR", "fail", "Failed"), 58),
    ("alice", "marginalia", "Marginalia", "🖋️", "pink", "red", "Ask a book, get its own words back with the page.", "gradio", "cpu-basic", RUN, 184),
    ("alice", "empty-room", "Empty room", "", "gray", "blue", "", "gradio", "cpu-basic", StageBadge("NO_APP_FILE", "off", "Nothing pushed yet"), 0),
    ("alice", "going-live", "Going live", "🚀", "indigo", "purple", "A push on its way.", "gradio", "t4-small", StageBadge("BUILDING", "work", "Building"), 7),
    ("alice", LONG, "Betriebsunfähigkeitsversicherungsvergleichsrechner_with_a_title_nobody_broke_up", "📏", "yellow", "blue", "Everything here is as long as it may be, and has to stand on a phone.", "docker", "a10g-largex4", StageBadge("APP_STARTING", "work", "Starting"), 12345),
    ("alice", "broken", "Broken", "🧨", "red", "gray", "An app that exits.", "gradio", "cpu-basic", StageBadge("RUNTIME_ERROR", "fail", "Failed"), 1),
)  # fmt: skip


def timeline(over: bool = False) -> Timeline:
    steps = (
        TimelineStep("Received", "done", "3 files, 14 kB", 0.2), TimelineStep("Checked", "done", "README, quota, file sizes", 0.1),
        TimelineStep("Queued", "done", "a build slot was free", 0.0),
        TimelineStep("Building", "now", "dependencies: 61 of 74 packages", 5.1, NOW - timedelta(seconds=5)),
        TimelineStep("Placing", "todo"), TimelineStep("Starting", "todo"), TimelineStep("Live", "todo"),
    )  # fmt: skip
    return Timeline(NEW, "Cite the page", "alice", NOW - timedelta(seconds=6), steps, 0.46, 14.0, None, SHA, "b1", over)


@dataclass
class World:
    """`signed_in` is the session cookie that works."""

    now: datetime = NOW
    app_url: str = "about:blank"
    frame_source: str = "http://*.localhost:7860 about:"
    signed_in: str = "cookie-of-alice"
    admin: bool = True
    cards: list[SpaceCard] = field(default_factory=list)
    files: dict[str, str] = field(
        default_factory=lambda: {
            "README.md": README,
            "app.py": APP,
            "requirements.txt": "gradio\n",
            "books/moby-dick.txt": "Call me Ishmael.",
        }
    )
    lines: list[str] = field(
        default_factory=lambda: [
            "==> Resolving requirements.txt",
            "    74 packages, 61 from cache",
            "==> Installing",
            "    + gradio 6.31.0",
            "    + pandas 3.0.1",
            "\x1b[33m    ↓ tokenizers 0.23.1   2.1 of 3.4 MB\x1b[0m",
            "\x1b[32;1mRunning on local URL:\x1b[0m http://0.0.0.0:7860",
        ]
    )
    commit_title: str = "Cite the page"
    discussion_title: str = "Which edition is this?"
    comment_text: str = "The page numbers differ from mine. Is it the *Norton* edition?"
    calls: list[tuple[object, ...]] = field(default_factory=list)
    any_text: str = ""  # stands for what people wrote on collection, organisation, preview, dataset and operator's pages
    variables: dict[str, str] = field(default_factory=lambda: {"MODEL_NAME": "all-minilm"})
    secrets: list[str] = field(default_factory=lambda: ["HF_TOKEN"])
    liked: bool = False
    refuse: Exception | None = None

    def __post_init__(self) -> None:
        if not self.cards:
            self.cards = [SpaceCard(*row, updated_at=self.now - timedelta(hours=i)) for i, row in enumerate(_SHOW)]

    def _card(self, owner: str, name: str) -> SpaceCard:
        card = next((c for c in self.cards if (c.owner, c.name) == (owner, name)), None)
        if card is None:
            raise RepoNotFound
        return card

    def _writer(self, actor: Actor, owner: str) -> None:
        if actor.user is None or owner != "alice":
            raise NotSignedIn("Sign in first.") if actor.user is None else Forbidden(f"alice is not allowed to change {owner}'s Space.")

    async def _note(self, actor: Actor, owner: str, name: str, *what: object) -> None:
        self._card(owner, name)
        self._writer(actor, owner)
        if self.refuse:
            raise self.refuse
        self.calls.append(what)
