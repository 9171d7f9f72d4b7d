// What the browser remembers of a page. Some browsers store nothing for local files; it then lasts as long as the page is
// open.

function storedText(key) {
  try {
    return localStorage.getItem(key) ?? "";
  } catch {
    return "";
  }
}

function storeText(key, text) {
  try {
    localStorage.setItem(key, text);
  } catch {
    // see above
  }
}
