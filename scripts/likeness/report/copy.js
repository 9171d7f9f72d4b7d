// A button copies the text beside it.

document.addEventListener("click", async ({ target }) => {
  if (!target.matches(".copy")) return;
  const text = target.parentElement.querySelector("pre");
  try {
    await navigator.clipboard.writeText(text.textContent);
    target.textContent = "Copied";
  } catch { // a browser that gives pages from disk no clipboard
    getSelection().selectAllChildren(text);
    target.textContent = document.execCommand("copy") ? "Copied" : "Press Ctrl+C";
  }
});
