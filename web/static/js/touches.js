// @ts-check
/** Small touches: `/` finds, menus close, full screen, names typed before a deletion, hardware named on its button. */
export function pageTouches() {
  addEventListener("keydown", (event) => {
    const field = document.activeElement;
    const typing = field instanceof HTMLInputElement || field instanceof HTMLTextAreaElement || field instanceof HTMLSelectElement;
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      const find = document.querySelector("#find");
      if (find instanceof HTMLInputElement) { event.preventDefault(); find.focus(); find.select(); }
    }
    if (event.key === "Escape") closeMenus(null);
  });
  addEventListener("click", (event) => closeMenus(event.target instanceof Node ? event.target : null));

  for (const button of document.querySelectorAll("[data-fullscreen]")) {
    const stand = document.getElementById(button.getAttribute("data-fullscreen") ?? "");
    if (!(button instanceof HTMLButtonElement) || !stand?.requestFullscreen) continue;
    button.addEventListener("click", () => stand.requestFullscreen());
  }
  for (const field of document.querySelectorAll("input[data-confirm]")) {
    if (!(field instanceof HTMLInputElement)) continue;
    const button = field.form?.querySelector("button");
    if (!button) continue;
    const check = () => { button.disabled = field.value.trim().toLowerCase() !== (field.dataset.confirm ?? "").toLowerCase(); };
    field.addEventListener("input", check);
    check();
  }
  document.querySelector(".tabs [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  const move = document.querySelector("[data-hardware]");
  for (const radio of document.querySelectorAll("input[data-say]")) {
    radio.addEventListener("change", () => { if (move) move.textContent = radio.getAttribute("data-say"); });
  }
}

/** @param {Node | null} inside */
function closeMenus(inside) {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!(menu instanceof HTMLDetailsElement) || (inside && menu.contains(inside))) continue;
    const hadFocus = menu.contains(document.activeElement);
    menu.open = false;
    if (hadFocus && !inside) menu.querySelector("summary")?.focus();
  }
}
