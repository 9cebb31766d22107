// @ts-check
import { copyButtons } from "./copy.js";

/**
 * Keeps the head and the App tab of a Space true. The stream only says that something changed; the words come from the
 * server as fragments of the same templates. Changes are gathered, so a busy build costs at most two requests a second.
 */
export function livePanel() {
  const head = document.querySelector("[data-live]");
  if (!(head instanceof HTMLElement) || !head.dataset.live || !head.dataset.panel) return;
  const panelAddress = head.dataset.panel;
  let timer = 0;
  let asking = false;
  let again = false;

  const stream = new EventSource(head.dataset.live);
  stream.addEventListener("changed", () => {
    clearTimeout(timer);
    timer = window.setTimeout(refresh, 500);
  });
  addEventListener("pagehide", () => stream.close());
  countUp();

  async function refresh() {
    if (asking) { again = true; return; }
    asking = true;
    try {
      const answer = await fetch(panelAddress);
      if (!answer.ok) return;
      const wasFramed = document.querySelector("[data-app]") !== null;
      const serves = answer.headers.get("X-Serves") === "1";
      const onAppTab = document.querySelector('[data-fragment="panel"]') !== null;
      if (onAppTab && serves !== wasFramed) { location.reload(); return; }
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const fresh of page.querySelectorAll("template")) {
        const place = document.querySelector(`[data-fragment="${fresh.dataset.for}"]`);
        // A form being filled in is not taken away under somebody's hands.
        if (!place || (place.contains(document.activeElement) && document.activeElement instanceof HTMLInputElement)) continue;
        place.replaceChildren(fresh.content.cloneNode(true));
        copyButtons(place);
        toEnd(place);
      }
    } finally {
      asking = false;
      if (again) { again = false; refresh(); }
    }
  }
}

/** @param {ParentNode} root */
function toEnd(root) {
  for (const list of root.querySelectorAll("[data-tail]")) list.scrollTop = list.scrollHeight;
}

/** The seconds of the running step, counted here between events. */
function countUp() {
  toEnd(document);
  setInterval(() => {
    for (const mark of document.querySelectorAll("[data-since]")) {
      const since = Date.parse(/** @type {HTMLElement} */ (mark).dataset.since ?? "");
      const seconds = Math.max(0, Math.round((Date.now() - since) / 1000));
      const { seconds: short = "{x} s", minutes: long = "{x} min" } = document.body.dataset; // as the server says them
      if (since) mark.textContent = seconds < 90 ? short.replace("{x}", String(seconds)) : long.replace("{x}", String(Math.round(seconds / 60)));
    }
  }, 1000);
}
