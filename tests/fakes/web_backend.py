"""A small working platform in memory, for page tests and pictures: a few Spaces, one person, one organisation."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from control_plane.domain.accounts import ANONYMOUS, Account, AccountKind, Actor, Session, Via
from control_plane.domain.errors import Forbidden, NameTaken, NotFound, NotSignedIn, QuotaExceeded, Rejected, RepoNotFound, StaleParent
from control_plane.domain.hardware import DEFAULT_FLAVORS
from control_plane.domain.ids import AccountId, SessionId
from control_plane.domain.spaces import RepoType
from web.views import (
    AdminBuildRow,
    AdminOverview,
    AnalyticsView,
    AuditRow,
    BlobView,
    BuildRow,
    CollectionPage,
    CollectionRow,
    CommitRow,
    CommitsView,
    CommitView,
    DiscussionEntry,
    DiscussionPage,
    DiscussionRow,
    FileRow,
    Gallery,
    GalleryQuery,
    HardwareOption,
    HourBar,
    ImportStep,
    LiveEvent,
    LogEntry,
    LogPage,
    Measure,
    MemberRow,
    NoticePage,
    NoticeRow,
    OrgPage,
    PlatformFacts,
    PoolRow,
    Profile,
    QuotaRow,
    RepoPage,
    RepoRow,
    SessionRow,
    SettingRow,
    SettingsView,
    SignedIn,
    SpaceCard,
    SpacePage,
    StageBadge,
    Timeline,
    TimelineStep,
    TokenRow,
    TreeView,
    UsageRow,
    UserRow,
    Viewer,
)  # fmt: skip

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
class MemoryWebBackend:
    """`signed_in` is the session cookie that works; `texts` replaces user texts everywhere (for hostile content)."""

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

    # sign-in
    async def platform(self) -> PlatformFacts:
        return PlatformFacts("http://127.0.0.1:7860", self.frame_source, imports=True)

    async def actor(self, cookie: str | None, address: str) -> Actor:
        if cookie != self.signed_in:
            return ANONYMOUS
        user = Account(AccountId("a" * 24), AccountKind.USER, "alice", "Alice Liddell", self.now, is_admin=self.admin)
        session = Session(SessionId("s" * 24), user.id, "x", "csrf-token-of-alice-0123456789", self.now, self.now + timedelta(days=30))
        return Actor(Via.SESSION, user, session=session)

    async def viewer(self, actor: Actor) -> Viewer:
        return Viewer(actor.user.name, actor.user.fullname, actor.is_admin, ("alice", "lab-oslo"), 2) if actor.user else Viewer()

    async def sign_in(self, name: str, password: str, *, address: str, user_agent: str) -> SignedIn:
        if (name, password) != ("alice", "correct horse"):
            raise NotSignedIn("Wrong user name or password.", bad_credentials=True)
        return SignedIn(self.signed_in, datetime.now(UTC) + timedelta(days=30), "alice")

    async def sign_in_once(self, token: str, *, address: str, user_agent: str) -> SignedIn:
        if token != "once":
            raise NotSignedIn("This sign-in link was used already or is too old; ask for a new one.", bad_credentials=True)
        return SignedIn(self.signed_in, datetime.now(UTC) + timedelta(days=30), "alice")

    async def sign_up(self, name: str, email: str, password: str, *, address: str, user_agent: str) -> SignedIn:
        if name == "alice":
            raise NameTaken("The name alice is taken.")
        return SignedIn(self.signed_in, datetime.now(UTC) + timedelta(days=30), name)

    async def sign_out(self, actor: Actor) -> None:
        self.calls.append(("sign_out",))

    # gallery
    async def gallery(self, actor: Actor, query: GalleryQuery) -> Gallery:
        cards = [c for c in self.cards if query.q.lower() in f"{c.title} {c.description}".lower()]
        cards = [c for c in cards if (not query.sdk or c.sdk in query.sdk) and (not query.running or c.stage.tone == "run")]
        cards = [c for c in cards if not query.hardware or c.hardware in query.hardware]
        if query.sort == "likes":
            cards.sort(key=lambda c: -c.likes)
        start = (query.page - 1) * query.page_size
        names = tuple(f.name for f in DEFAULT_FLAVORS)
        return Gallery(
            tuple(cards[start : start + query.page_size]),
            len(cards) > start + query.page_size,
            len(cards),
            sum(c.stage.tone == "run" for c in cards),
            names,
        )

    async def thumbnail(self, actor: Actor, space_id: str) -> bytes:
        raise NotFound("There is no picture of this Space.")

    async def repo_list(self, actor: Actor, kind: RepoType, q: str, sort: str, page: int) -> tuple[tuple[RepoRow, ...], bool]:
        return tuple(
            RepoRow(kind.value, "alice", n, f"/{kind.url_prefix}alice/{n}", 3, self.now, "public", (self.any_text or "text",))
            for n in ("books", "index")
        ), False

    async def profile(self, actor: Actor, name: str) -> Profile:
        spaces = tuple(c for c in self.cards if c.owner == name)
        if not spaces:
            raise NotFound("nobody")
        rows, _ = await self.repo_list(actor, RepoType.DATASET, "", "", 1)
        return Profile(name, "Alice Liddell", "user", self.now - timedelta(days=300), spaces, rows, (("lab-oslo", "write"),), ())

    async def like(self, actor: Actor, kind: RepoType, owner: str, name: str, liked: bool) -> None:
        self.liked = liked

    # Space
    def _card(self, owner: str, name: str) -> SpaceCard:
        card = next((c for c in self.cards if (c.owner, c.name) == (owner, name)), None)
        if card is None:
            raise RepoNotFound
        return card

    async def space(self, actor: Actor, owner: str, name: str) -> SpacePage:
        card = self._card(owner, name)
        own = actor.user is not None and owner == "alice"
        stage = card.stage.stage
        message = {
            "RUNTIME_ERROR": "The app exited; its log has the reason.",
            "BUILDING": "Waiting for a build slot." if name != "going-live" else "",
        }.get(stage, "")
        return SpacePage(
            card, f"{owner}-{name}", self.app_url, self.app_url, SHA if card.stage.tone == "run" else "", "" if stage == "NO_APP_FILE" else SHA, card.hardware,
            card.hardware if card.stage.tone == "run" else "", message, "APP_EXITED" if stage == "RUNTIME_ERROR" else "", self.liked, own, own, True,
            timeline() if stage == "BUILDING" else None, f"http://127.0.0.1:7860/spaces/{owner}/{name}", asleep=stage == "SLEEPING",
            serves=card.stage.tone == "run", tags=card.tags or ("books", "search"), license="mit", discussions=2,
        )  # fmt: skip

    async def analytics(self, actor: Actor, owner: str, name: str, span: str) -> AnalyticsView:
        self._writer(actor, owner)
        asked = (0, 0, 3, 9, 14, 22, 31, 64, 80, 96, 120, 111, 98, 87, 92, 101, 77, 66, 40, 31, 22, 14, 6, 0)
        bars = tuple(HourBar(self.now - timedelta(hours=23 - i), n, n // 40, 0.2 if n else None) for i, n in enumerate(asked))
        measures = (
            Measure("Requests", "1,284", "since the last start"),
            Measure("Median answer", "42 ms"),
            Measure("99 of 100 within", "310 ms"),
            Measure("Errors", "3"),
            Measure("Processor", "0.4", "of 2 cores"),
            Measure("Memory", "412 MB", "of 16 GB"),
            Measure("Wake-ups", "17"),
            Measure("Cost", "$0.00"),
        )
        return AnalyticsView(measures, ((self.now, "Live", "3f2a91c in 6.2 s"), (self.now - timedelta(hours=2), "Asleep", "")), bars, span)

    async def builds(self, actor: Actor, owner: str, name: str) -> tuple[BuildRow, ...]:
        return (
            BuildRow("b1", NEW, self.commit_title, "running", self.now, None),
            BuildRow("b0", SHA, "First version", "succeeded", self.now - timedelta(hours=2), 22.5),
        )

    async def log_page(self, actor: Actor, owner: str, name: str, which: str, build_id: str | None, tail: int) -> LogPage:
        self._writer(actor, owner)
        return LogPage(tuple(LogEntry(i, self.now, text) for i, text in enumerate(self.lines)), len(self.lines))

    async def follow_log(
        self, actor: Actor, owner: str, name: str, which: str, build_id: str | None, after: int
    ) -> AsyncIterator[LogEntry | None]:
        self._writer(actor, owner)
        for i, text in enumerate(self.lines[after:], after):
            yield LogEntry(i, self.now, text)

    async def events(self, actor: Actor, owner: str, name: str, after: int | None) -> AsyncIterator[LiveEvent | None]:
        self._card(owner, name)
        for i in range((after or 0) + 1, 3):
            yield LiveEvent(i, "changed", {"kind": "build.phase"})
        yield None

    def _writer(self, actor: Actor, owner: str) -> None:
        if actor.user is None or owner != "alice":
            raise NotSignedIn("Sign in first.") if actor.user is None else Forbidden(f"alice is not allowed to change {owner}'s Space.")

    async def create_space(
        self,
        actor: Actor,
        owner: str,
        name: str,
        sdk: str,
        visibility: str,
        hardware: str,
        template: bool,
        files: Mapping[str, bytes],
    ) -> SpacePage:
        if any((c.owner, c.name) == (owner, name) for c in self.cards):
            raise NameTaken(f"{owner}/{name} exists already; choose another name.")
        if name == "one-too-many":
            raise QuotaExceeded(
                subject=owner, key="spaces", limit=3, used=3, asked=1, frees_at=None, how="Delete a Space, or ask an operator for more."
            )
        self.cards.append(
            SpaceCard(
                owner,
                name,
                name,
                "",
                "gray",
                "blue",
                "",
                sdk,
                hardware,
                StageBadge("NO_APP_FILE", "off", "Nothing pushed yet"),
                0,
                self.now,
                visibility,
            )
        )
        return await self.space(actor, owner, name)

    async def import_space(
        self, actor: Actor, owner: str, name: str, sdk: str, visibility: str, hardware: str, url: str, branch: str
    ) -> AsyncGenerator[ImportStep, None]:
        for words in ("Asking git.example.org", "Receiving objects: 45% (120/266), 4.1 MiB | 2.0 MiB/s", "Checking what came"):
            yield ImportStep(words)
        yield ImportStep("The Space is there", "/spaces/alice/marginalia")

    async def duplicate(self, actor: Actor, owner: str, name: str, to_owner: str, to_name: str, visibility: str) -> SpacePage:
        card = self._card(owner, name)
        return await self.create_space(actor, to_owner, to_name, card.sdk, visibility, card.hardware, False, {})

    async def _note(self, actor: Actor, owner: str, name: str, *what: object) -> None:
        self._card(owner, name)
        self._writer(actor, owner)
        if self.refuse:
            raise self.refuse
        self.calls.append(what)

    async def pause(self, actor: Actor, owner: str, name: str) -> None:
        await self._note(actor, owner, name, "pause")

    async def restart(self, actor: Actor, owner: str, name: str, *, factory: bool) -> None:
        await self._note(actor, owner, name, "restart", factory)

    async def deploy_revision(self, actor: Actor, owner: str, name: str, revision: str) -> None:
        await self._note(actor, owner, name, "deploy", revision)

    async def cancel_build(self, actor: Actor, owner: str, name: str, build_id: str) -> None:
        await self._note(actor, owner, name, "cancel", build_id)

    # settings
    async def settings(self, actor: Actor, owner: str, name: str) -> SettingsView:
        card = self._card(owner, name)
        self._writer(actor, owner)
        free = {"cpu-basic": (16, 10), "cpu-upgrade": (4, 2), "t4-small": (8, 3), "a10g-small": (4, 0), "a100-large": (2, 1)}
        options = tuple(
            HardwareOption(
                f.name,
                f.pretty_name,
                f.vcpu,
                f.memory_gb,
                f.accelerator.model if f.accelerator else "",
                f.accelerator.memory_gb * f.gpu_count if f.accelerator else 0,
                f.price_per_hour,
                free[f.name][0],
                free[f.name][1],
                2 if not free[f.name][1] else None,
                9.0 if free[f.name][1] else 240.0,
                "not in your quota; ask an operator" if f.name == "a100-large" else "",
                f.name == card.hardware,
                f.name == card.hardware,
            )
            for f in DEFAULT_FLAVORS
            if f.name in free
        )
        variables = tuple(SettingRow(k, v, "", self.now) for k, v in self.variables.items())
        return SettingsView(
            options,
            (QuotaRow("gpu-hours", 20, 1.6),),
            3600,
            variables,
            tuple(SettingRow(k, "", "", self.now) for k in self.secrets),
            "public",
            "running",
            storage_tier="small",
            storage_offers=(("small", 20 * 10**9), ("medium", 150 * 10**9)),
        )

    async def set_hardware(self, actor: Actor, owner: str, name: str, flavor: str) -> None:
        if flavor == "a100-large":
            raise QuotaExceeded(
                subject=owner, key="running.a100-large", limit=0, used=0, asked=1, frees_at=None, how="Ask an operator for more."
            )
        await self._note(actor, owner, name, "hardware", flavor)

    async def set_replicas(self, actor: Actor, owner: str, name: str, count: int) -> None:
        await self._note(actor, owner, name, "replicas", count)

    async def request_storage(self, actor: Actor, owner: str, name: str, tier: str) -> None:
        await self._note(actor, owner, name, "storage", tier)

    async def delete_storage(self, actor: Actor, owner: str, name: str) -> None:
        await self._note(actor, owner, name, "storage", "")

    async def set_sleep(self, actor: Actor, owner: str, name: str, seconds: int | None) -> None:
        await self._note(actor, owner, name, "sleep", seconds)

    async def put_setting(self, actor: Actor, owner: str, name: str, key: str, value: str, description: str, *, secret: bool) -> None:
        await self._note(actor, owner, name, "put", key, secret)
        if secret:
            self.secrets.append(key)
        else:
            self.variables[key] = value

    async def remove_setting(self, actor: Actor, owner: str, name: str, key: str, *, secret: bool) -> None:
        await self._note(actor, owner, name, "remove", key, secret)

    async def set_visibility(self, actor: Actor, kind: RepoType, owner: str, name: str, visibility: str) -> None:
        await self._note(actor, owner, name, "visibility", visibility)

    async def rename(self, actor: Actor, kind: RepoType, owner: str, name: str, to_owner: str, to_name: str) -> str:
        card = self._card(owner, name)
        self.cards = [replace(c, owner=to_owner, name=to_name) if c is card else c for c in self.cards]
        return f"/spaces/{to_owner}/{to_name}"

    async def remove_repo(self, actor: Actor, kind: RepoType, owner: str, name: str) -> None:
        await self._note(actor, owner, name, "delete")

    # files
    async def repo(self, actor: Actor, kind: RepoType, owner: str, name: str) -> RepoPage:
        if kind is RepoType.SPACE:
            self._card(owner, name)
        elif owner != "alice":
            raise RepoNotFound
        own = actor.user is not None and owner == "alice"
        base = f"/{kind.url_prefix}{owner}/{name}"
        return RepoPage(
            kind.value,
            owner,
            name,
            base,
            "public",
            3,
            False,
            self.now,
            SHA,
            own,
            own,
            f"http://127.0.0.1:7860{base}",
            ("text",),
            "mit",
            14_000,
        )

    def _commit(self, sha: str = SHA) -> CommitRow:
        return CommitRow(
            sha, self.commit_title, self.commit_title + "\n\nBecause readers ask.", "alice", self.now - timedelta(hours=2), sha == SHA, True
        )

    async def tree(self, actor: Actor, kind: RepoType, owner: str, name: str, rev: str, path: str) -> TreeView:
        prefix = f"{path}/" if path else ""
        rows: dict[str, FileRow] = {}
        for file, text in self.files.items():
            if file.startswith(prefix):
                head, slash, _ = file[len(prefix) :].partition("/")
                rows[head] = FileRow(
                    head, prefix + head, bool(slash), len(text), False, "", SHA, self.commit_title, self.now - timedelta(hours=2)
                )
        if path and not rows:
            raise NotFound("no such folder")
        return TreeView(
            rev,
            SHA,
            path,
            tuple(rows.values()),
            rev == "main",
            ("main",),
            self.files.get("README.md", "") if not path else "",
            self._commit(),
            12,
        )

    async def blob(self, actor: Actor, kind: RepoType, owner: str, name: str, rev: str, path: str) -> BlobView:
        if path not in self.files:
            raise NotFound("no such file")
        return BlobView(rev, SHA, path, len(self.files[path]), self.files[path], rev == "main", last=self._commit())

    async def raw(self, actor: Actor, kind: RepoType, owner: str, name: str, rev: str, path: str) -> AsyncIterator[bytes]:
        if path not in self.files:
            raise NotFound("no such file")
        yield self.files[path].encode()

    async def commits(self, actor: Actor, kind: RepoType, owner: str, name: str, rev: str, page: int) -> CommitsView:
        return CommitsView(rev, (self._commit(NEW), self._commit()), 12, page, page == 1)

    async def commit(self, actor: Actor, kind: RepoType, owner: str, name: str, sha: str) -> CommitView:
        return CommitView(self._commit(sha), SHA, DIFF)

    async def write_files(
        self,
        actor: Actor,
        kind: RepoType,
        owner: str,
        name: str,
        branch: str,
        changes: Mapping[str, bytes | None],
        message: str,
        parent: str | None,
    ) -> str:
        self._writer(actor, owner)
        if parent not in (None, "", SHA):
            raise StaleParent("main moved on since you opened this page.")
        for path, body in changes.items():
            if body is None:
                self.files.pop(path, None)
            else:
                self.files[path] = body.decode()
        return SHA

    # account
    async def propose_files(
        self, actor: Actor, kind: RepoType, owner: str, name: str, branch: str, changes: Mapping[str, bytes | None], message: str
    ) -> int:
        self.calls.append(("propose", tuple(changes), message))
        return 1

    async def tokens(self, actor: Actor) -> tuple[TokenRow, ...]:
        return (
            TokenRow("t1", "laptop", "write", self.now - timedelta(days=3), None, self.now - timedelta(minutes=5)),
            TokenRow("t2", "ci", "read", self.now - timedelta(days=30), self.now + timedelta(days=60), None),
        )

    async def create_token(self, actor: Actor, name: str, role: str, expires_at: datetime | None) -> str:
        if not name:
            raise Rejected("a token needs a name")
        return "hf_" + "x" * 36

    async def revoke_token(self, actor: Actor, token_id: str) -> None:
        self.calls.append(("revoke", token_id))

    async def sessions(self, actor: Actor) -> tuple[SessionRow, ...]:
        return (
            SessionRow("s1", self.now, self.now, "Firefox on Linux", "10.0.0.7", True),
            SessionRow("s2", self.now - timedelta(days=2), self.now, "Safari on iPhone", "10.0.0.9", False),
        )

    async def end_session(self, actor: Actor, session_id: str | None) -> None:
        self.calls.append(("end", session_id))

    async def change_password(self, actor: Actor, old: str, new: str) -> None:
        if old != "correct horse":
            raise Rejected("The old password is not right.")

    async def own_quotas(self, actor: Actor) -> tuple[QuotaRow, ...]:
        return (QuotaRow("spaces", 10, 4), QuotaRow("gpu-hours", 20, 1.6), QuotaRow("storage-gb", None, 0.4))

    # community
    def _row(self) -> DiscussionRow:
        return DiscussionRow(1, self.discussion_title, "mira", "open", False, self.now - timedelta(days=1), 2)

    async def discussions(self, actor: Actor, kind: RepoType, owner: str, name: str) -> tuple[DiscussionRow, ...]:
        return (self._row(), DiscussionRow(2, "Faster search", "bob", "open", True, self.now, 0))

    async def discussion(self, actor: Actor, kind: RepoType, owner: str, name: str, number: int) -> DiscussionPage:
        if number not in (1, 2):
            raise NotFound("no such discussion")
        row = self._row() if number == 1 else DiscussionRow(2, self.any_text or "Faster search", "bob", "open", True, self.now, 0)
        entries = (DiscussionEntry("comment", "mira", self.now, self.comment_text), DiscussionEntry("status", "alice", self.now, "closed"))
        is_pull, may = number == 2, actor.user is not None
        diff = DIFF + (f"+{self.any_text}\n" if self.any_text else "") if is_pull else ""
        return DiscussionPage(row, entries, may, may, is_pull, diff, preview=self._card("alice", "marginalia") if is_pull else None)

    async def open_discussion(self, actor: Actor, kind: RepoType, owner: str, name: str, title: str, text: str) -> int:
        return 1

    async def comment(self, actor: Actor, kind: RepoType, owner: str, name: str, number: int, text: str) -> None:
        self.calls.append(("comment", number, text))

    async def set_discussion_status(
        self, actor: Actor, kind: RepoType, owner: str, name: str, number: int, status: str, comment: str = ""
    ) -> None:
        self.calls.append(("status", number, status))

    # gates
    async def ask_access(self, actor: Actor, kind: RepoType, owner: str, name: str) -> None:
        self.calls.append(("ask", owner, name))

    async def set_gate(self, actor: Actor, kind: RepoType, owner: str, name: str, gate: str) -> None:
        self.calls.append(("gate", owner, name, gate))

    async def decide_access(self, actor: Actor, kind: RepoType, owner: str, name: str, request_id: str, status: str) -> None:
        self.calls.append(("decide", request_id, status))

    # organisations
    def may_make_org(self, actor: Actor) -> bool:
        return actor.user is not None

    async def create_org(self, actor: Actor, name: str, fullname: str) -> str:
        self.calls.append(("org", name))
        return name

    async def org(self, actor: Actor, name: str) -> OrgPage:
        members = (MemberRow("alice", "Alice Liddell", "admin", True), MemberRow("mira", self.any_text or "Mira Sato", "write", False))
        return OrgPage(
            name, self.any_text or "Lab Oslo", True, members, ("admin", "write", "contributor", "read"), await self.own_quotas(actor)
        )

    async def rename_org(self, actor: Actor, name: str, fullname: str) -> None:
        self.calls.append(("org-name", name, fullname))

    async def set_org_member(self, actor: Actor, name: str, user_name: str, role: str) -> None:
        self.calls.append(("member", name, user_name, role))

    async def remove_org_member(self, actor: Actor, name: str, user_name: str) -> None:
        self.calls.append(("no-member", name, user_name))

    # notices
    async def notices(self, actor: Actor, unread_only: bool, page: int) -> NoticePage:
        here, ago = "alice/marginalia", timedelta(hours=3)
        rows = (
            NoticeRow("t1", "run", "New comment", here, f"/spaces/{here}/discussions/1", self.now, "mira", self.discussion_title, self.comment_text, 1, 3),
            NoticeRow("t2", "fail", "Build failed", "alice/broken", "/spaces/alice/broken/logs", self.now - ago, "", self.commit_title, "A requirement could not be installed; the build log has its error."),
            NoticeRow("t3", "sleep", "Merged", here, f"/spaces/{here}/discussions/2", self.now - 9 * ago, "bob", "Faster search", "", 2, is_read=True),
        )  # fmt: skip
        return NoticePage(tuple(r for r in rows if not (unread_only and r.is_read)), 2, page, False)

    async def open_notice(self, actor: Actor, topic: str) -> str:
        self.calls.append(("open-notice", topic))
        return "/spaces/alice/marginalia/discussions/1"

    async def mark_notices(self, actor: Actor, topics: Sequence[str] | None, read: bool) -> None:
        self.calls.append(("mark", topics, read))

    async def follow_notices(self, actor: Actor) -> AsyncIterator[int | None]:
        yield 2
        yield None

    # admin
    def _list(self) -> CollectionRow:
        words = self.any_text
        return CollectionRow("alice", "reading-room", words or "Reading room", words or "Demos that read", False, "orange", 2, self.now)

    async def collections_of(self, actor: Actor, owner: str) -> tuple[CollectionRow, ...]:
        return (self._list(),) if owner == "alice" else ()

    async def collection(self, actor: Actor, owner: str, slug: str) -> CollectionPage:
        if (owner, slug) != ("alice", "reading-room"):
            raise NotFound("There is no such collection.")
        cards = tuple(self.cards[:2])
        own = actor.user is not None and actor.user.name == owner
        return CollectionPage(self._list(), cards, (), own, {f"{c.owner}/{c.name}".lower(): c.name for c in cards})

    async def collect(self, actor: Actor, kind: RepoType, owner: str, name: str, into: str, title: str) -> str:
        self.calls.append(("collect", owner, name, into or title))
        return "alice/reading-room"

    async def uncollect(self, actor: Actor, owner: str, slug: str, item_id: str) -> None:
        self.calls.append(("uncollect", item_id))

    async def remove_collection(self, actor: Actor, owner: str, slug: str) -> None:
        self.calls.append(("remove-collection", slug))

    async def start_preview(self, actor: Actor, owner: str, name: str, number: int) -> None:
        await self._note(actor, owner, name, "preview", number)

    async def stop_preview(self, actor: Actor, owner: str, name: str, number: int) -> None:
        await self._note(actor, owner, name, "no-preview", number)

    async def admin_overview(self, actor: Actor) -> AdminOverview:
        counts = (Measure("Spaces", "1,284"), Measure("Running now", "37"), Measure("People", "212"), Measure("Builds in line", "2"))
        builds = (AdminBuildRow("structbio/fold-viewer", BuildRow("b1", NEW, "x", "running", self.now, None, "61 of 74 packages")),)
        pools = (PoolRow("cpu", "cpu-basic", 4, 16, 6, 10, 0), PoolRow("t4", "t4-small", 2, 8, 5, 3, 2))
        return AdminOverview(counts, tuple(c for c in self.cards if c.stage.tone == "run"), builds, pools)

    async def admin_users(self, actor: Actor) -> tuple[UserRow, ...]:
        return (
            UserRow("alice", "Alice Liddell", "user", True, False, self.now, 4),
            UserRow("bob", "Bob", "user", False, True, self.now, 0),
            UserRow("lab-oslo", "Lab Oslo", "org", False, False, self.now, 1),
        )

    async def admin_quotas(self, actor: Actor, subject: str) -> tuple[QuotaRow, ...]:
        return await self.own_quotas(actor)

    async def admin_set_quota(self, actor: Actor, subject: str, key: str, value: str) -> None:
        if not value.isdigit() and value != "unlimited":
            raise Rejected(f"'{value}' is not a quota value")
        self.calls.append(("quota", subject, key, value))

    async def admin_usage(self, actor: Actor) -> tuple[UsageRow, ...]:
        return (UsageRow("alice", "gpu-hours", "t4-small", 1.6),)

    async def admin_audit(self, actor: Actor) -> tuple[tuple[AuditRow, ...], bool]:
        facts = self.any_text or "sdk gradio"
        return (AuditRow(self.now, "alice", "repo.create", "space:alice/marginalia", "10.0.0.7", facts),), True

    async def admin_suspend(self, actor: Actor, name: str, suspended: bool) -> None:
        self.calls.append(("suspend", name, suspended))

    async def admin_maintenance(self, actor: Actor, message: str | None) -> None:
        self.calls.append(("maintenance", message))

    async def admin_add_user(self, actor: Actor, name: str, email: str, password: str, *, admin: bool) -> None:
        self.calls.append(("add_user", name, admin))
