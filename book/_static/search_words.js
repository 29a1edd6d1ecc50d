// The excerpts of Sphinx's search show the text of a page as it was written: TeX and all.
// A formula becomes an ellipsis there.
if (typeof Search !== "undefined" && Search.htmlToText) {
  const plain = Search.htmlToText;
  const formula = /<(span|div) class="math[^>]*>[\s\S]*?<\/\1>/g;
  Search.htmlToText = (page, anchor) => plain(page.replace(formula, " … "), anchor);
}
