// @ts-check
/**
 * Keeps the figure on the bell true. One stream while the page is in front: a page in the background listens to nothing,
 * so that many open tabs do not use up the browser's connections; coming back asks again.
 */
export function bell() {
  const link = document.querySelector("[data-bell]");
  if (!(link instanceof HTMLElement) || !link.dataset.bell) return;
  const address = link.dataset.bell;
  const figure = link.querySelector("[data-count]");
  /** @type {EventSource | undefined} */
  let stream;

  function follow() {
    stream?.close();
    stream = undefined;
    if (document.visibilityState !== "visible") return;
    stream = new EventSource(address);
    stream.addEventListener("unread", (event) => {
      const told = JSON.parse(event.data);
      link?.setAttribute("aria-label", told.label);
      if (!(figure instanceof HTMLElement)) return;
      figure.textContent = told.n > 99 ? "99+" : String(told.n);
      figure.hidden = told.n === 0;
    });
  }

  document.addEventListener("visibilitychange", follow);
  addEventListener("pagehide", () => stream?.close());
  addEventListener("pageshow", (event) => { if (event.persisted) follow(); });
  follow();
}
