// @ts-check
/**
 * Search as you type: the same page is asked for again, and its marked parts take the place of ours.
 * The address always holds the whole state, so reload, back and sharing work.
 */
export function gallerySearch() {
  const gallery = document.querySelector("[data-gallery]");
  const input = document.querySelector("#find");
  if (!gallery || !(input instanceof HTMLInputElement)) return;
  let timer = 0;
  /** @type {AbortController | undefined} */
  let running;

  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = window.setTimeout(search, 180);
  });

  async function search() {
    running?.abort();
    running = new AbortController();
    const address = new URL(location.href);
    address.pathname = "/spaces";
    address.searchParams.delete("page");
    const text = /** @type {HTMLInputElement} */ (input).value.trim();
    if (text) address.searchParams.set("q", text);
    else address.searchParams.delete("q");
    try {
      const answer = await fetch(address, { signal: running.signal, headers: { "X-Requested-With": "fetch" } });
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of document.querySelectorAll("[data-gallery] [data-part]")) {
        const fresh = page.querySelector(`[data-gallery] [data-part="${part.getAttribute("data-part")}"]`);
        if (fresh) part.replaceChildren(...fresh.childNodes);
      }
      history.replaceState(null, "", address);
    } catch (error) {
      if (!(error instanceof DOMException && error.name === "AbortError")) throw error;
    }
  }
}
