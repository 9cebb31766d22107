// @ts-check
/**
 * Copy buttons next to commands. They appear only with a script, because only a script can do it.
 * @param {ParentNode} root
 */
export function copyButtons(root) {
  for (const button of root.querySelectorAll("button[data-copy]")) {
    if (!(button instanceof HTMLButtonElement)) continue;
    if (!navigator.clipboard) { button.hidden = true; continue; }
    button.addEventListener("click", async () => {
      const text = button.previousElementSibling?.textContent ?? "";
      const label = button.textContent;
      await navigator.clipboard.writeText(text);
      button.textContent = document.body.dataset.copied ?? "✓";
      setTimeout(() => { button.textContent = label; }, 1500);
    });
  }
}
