"""The program of the container that runs before an app and fetches the repositories that it mounts.

Its own text is that container's command (`python3 -I -c TEXT`), so it needs nothing but Python 3 with its standard library, whatever the
image. `VITRINE_VOLUMES` says what comes from where: `[{"url", "token", "into", "file"}]`. Each answer is a tar stream.

Ends with 0, with REFUSED where the platform will not give a volume any more, with 1 where another try may help. The last line says why.
"""

import json
import os
import re
import shutil
import sys
import tarfile
import urllib.error
import urllib.request

REFUSED = 3  # exit status
_WAIT_S = 120.0  # without a byte


def fetch(url: str, token: str, into: str, is_file: bool) -> None:
    """Fill the folder `into`; what an earlier try left there goes first. A single file is always called `content`."""
    for name in os.listdir(into):
        path = os.path.join(into, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_WAIT_S) as answer, tarfile.open(fileobj=answer, mode="r|") as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Pythons without it have the checks below alone
        for member in tar:
            if is_file:
                member.name = "content"
            _take(tar, member, into)


def _take(tar: tarfile.TarFile, member: tarfile.TarInfo, into: str) -> None:
    if member.name.startswith("/") or ".." in member.name.split("/"):
        raise tarfile.TarError("a name leaves the volume")
    if not (member.isfile() or member.isdir() or member.issym()):
        raise tarfile.TarError("neither file nor folder nor link")
    if member.issym() and _leaves(member):
        raise tarfile.TarError("a link leaves the volume")
    member.uid, member.gid = os.getuid(), os.getgid()
    tar.extract(member, into, set_attrs=not member.issym())


def _leaves(link: tarfile.TarInfo) -> bool:
    target = os.path.normpath(os.path.join(os.path.dirname(link.name), link.linkname))
    return link.linkname.startswith("/") or target.split("/")[0] == ".."


def main() -> int:
    for number, volume in enumerate(json.loads(os.environ["VITRINE_VOLUMES"])):
        try:
            fetch(volume["url"], volume["token"], volume["into"], volume["file"])
        except urllib.error.HTTPError as error:
            words = re.sub(r"[^ -~]", "?", error.headers.get("X-Error-Message") or error.reason)[:300]
            _say(number, words)
            return REFUSED if error.code in (400, 401, 403, 404, 410, 422) else 1
        except (OSError, tarfile.TarError) as error:
            _say(number, getattr(error, "strerror", None) or type(error).__name__)  # not its text: names of files are not for everybody
            return 1
        _say(number, "fetched")
    return 0


def _say(number: int, words: object) -> None:
    sys.stdout.write(f"volume {number}: {words}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
