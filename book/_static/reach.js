// What scrolls sideways can be reached by keyboard. The references are not announced as a list,
// since their entries are none.
"use strict";
{
  const reach = () => {
    for (const part of document.querySelectorAll(
      ".bd-article .cell_output, .bd-article pre, .bd-article .pst-scrollable-table-container"
    )) {
      if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
    }
  };
  addEventListener("load", () => {
    reach();
    document.querySelectorAll(".citation-list").forEach((list) => list.removeAttribute("role"));
  });
  addEventListener("resize", reach);
}
