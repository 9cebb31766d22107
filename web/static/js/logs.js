// @ts-check
const MOST_LINES = 5000;

/** A log that follows: new lines at the end, pause, search. The server escapes and colours each line. */
export function liveLog() {
  const log = document.querySelector("[data-log]");
  if (!(log instanceof HTMLElement)) return;
  const list = log.querySelector("[data-lines]");
  const state = log.querySelector("[data-state]");
  const pause = log.querySelector("[data-pause]");
  const find = log.querySelector("[data-find]");
  if (!(list instanceof HTMLElement) || !(state instanceof HTMLElement)) return;
  /** @type {HTMLLIElement[]} */
  let waiting = [];
  let paused = false;
  let next = Number(log.dataset.next ?? "0");

  list.scrollTop = list.scrollHeight;
  const address = new URL(log.dataset.log ?? "", location.href);
  address.searchParams.set("after", String(next));
  const stream = new EventSource(address);
  stream.onopen = () => { state.textContent = state.dataset.live ?? ""; };
  stream.onerror = () => { state.textContent = document.body.dataset.lost ?? ""; };
  stream.addEventListener("line", (event) => {
    const line = JSON.parse(event.data);
    if (line.n < next) return;
    next = line.n + 1;
    const item = document.createElement("li");
    item.id = `l${line.n}`;
    item.append(new DOMParser().parseFromString(line.html, "text/html").body);
    item.replaceChildren(...item.firstElementChild?.childNodes ?? []);
    waiting.push(item);
    if (waiting.length === 1) requestAnimationFrame(show);
  });
  stream.addEventListener("end", () => {
    stream.close();
    state.textContent = state.dataset.ended ?? "";
  });
  addEventListener("pagehide", () => stream.close());

  function show() {
    if (paused || !(list instanceof HTMLElement)) return;
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    list.querySelector("[data-none]")?.remove();
    list.append(...waiting);
    waiting = [];
    while (list.childElementCount > MOST_LINES) list.firstElementChild?.remove();
    if (find instanceof HTMLInputElement && find.value) mark();
    if (atEnd) list.scrollTop = list.scrollHeight;
  }

  if (pause instanceof HTMLButtonElement) {
    const words = [pause.textContent ?? "", pause.dataset.on ?? ""];
    pause.addEventListener("click", () => {
      paused = !paused;
      pause.textContent = words[paused ? 1 : 0];
      pause.setAttribute("aria-pressed", String(paused));
      const now = stream.readyState === EventSource.CLOSED ? state.dataset.ended : state.dataset.live;
      state.textContent = (paused ? state.dataset.paused : now) ?? "";
      show();
    });
  }

  function mark() {
    const text = find instanceof HTMLInputElement ? find.value.toLowerCase() : "";
    /** @type {Element | undefined} */
    let last;
    for (const item of list?.children ?? []) {
      const hit = text !== "" && (item.textContent ?? "").toLowerCase().includes(text);
      item.classList.toggle("hit", hit);
      if (hit) last = item;
    }
    return last;
  }

  if (find instanceof HTMLInputElement) {
    find.addEventListener("input", () => mark()?.scrollIntoView({ block: "center" }));
  }
}
