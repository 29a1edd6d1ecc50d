// Sphinx's search shows text as it was written: TeX and all. Here a formula in an excerpt becomes
// an ellipsis, and a letter in a heading becomes itself. Runs after the index is loaded.
if (typeof Search !== "undefined" && Search._index) {
  const plain = Search.htmlToText;
  const formula = /<(span|div) class="math[^>]*>[\s\S]*?<\/\1>/g;
  Search.htmlToText = (page, anchor) => plain(page.replace(formula, " … "), anchor);

  const letters = { delta: "δ", theta: "θ", gamma: "γ", lambda: "λ", psi: "ψ", tilde: "" };
  const readable = (title) => title.replace(/\\([a-z]+)/gi, (_, name) => letters[name] ?? "");
  const titles = Object.entries(Search._index.alltitles);
  Search._index.alltitles = Object.fromEntries(titles.map(([title, at]) => [readable(title), at]));
}
