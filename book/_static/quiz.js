// The quizzes of a chapter keep a score: how many questions were answered right at first try.
// The first answer that is opened counts. Without localStorage the score lasts as long as the page.
(() => {
  "use strict";

  function questions() {
    const groups = [];
    for (const answer of document.querySelectorAll("details.quiz")) {
      const last = groups[groups.length - 1];
      if (last && last[last.length - 1].nextElementSibling === answer) last.push(answer);
      else groups.push([answer]);
    }
    return groups.filter((group) => group.some(isRight));
  }

  function isRight(answer) {
    return answer.classList.contains("right");
  }

  // A changed question has another name, so that an old answer does not count for it.
  function name(group) {
    let hash = 7;
    for (const answer of group) {
      for (const letter of answer.querySelector("summary").textContent.trim()) {
        hash = (hash * 31 + letter.codePointAt(0)) >>> 0;
      }
    }
    return hash.toString(36);
  }

  const key = "ibau-quiz:" + location.pathname.split("/").pop().replace(/\.html$/, "");

  function load() {
    try {
      const kept = JSON.parse(localStorage.getItem(key));
      return kept && typeof kept === "object" && !Array.isArray(kept) ? kept : {};
    } catch {
      return {};
    }
  }

  function keep(answers) {
    try {
      localStorage.setItem(key, JSON.stringify(answers));
    } catch {
      // The reader's browser keeps nothing: the score still stands on the page.
    }
  }

  function start() {
    const groups = questions();
    if (groups.length === 0) return;
    const names = groups.map(name);
    let answers = load();

    const box = document.createElement("p");
    box.className = "quiz-score";
    const words = document.createElement("span");
    words.setAttribute("role", "status");
    const again = document.createElement("button");
    again.type = "button";
    again.textContent = "Start again";
    box.append(words, " ", again);
    const last = groups[groups.length - 1];
    last[last.length - 1].after(box);

    function show() {
      const given = names.filter((one) => one in answers);
      const right = given.filter((one) => answers[one] === true).length;
      const open = groups.length - given.length;
      words.textContent =
        given.length === 0
          ? "Your score appears here: the first answer that you open counts."
          : `${right} of ${groups.length} at first try` + (open ? `; ${open} still open.` : ".");
      again.hidden = given.length === 0;
    }

    groups.forEach((group, place) => {
      for (const answer of group) {
        answer.addEventListener("toggle", () => {
          if (!answer.open || names[place] in answers) return;
          answers[names[place]] = isRight(answer);
          keep(answers);
          show();
        });
      }
    });
    again.addEventListener("click", () => {
      answers = {};
      keep(answers);
      for (const answer of groups.flat()) answer.open = false;
      show();
      groups[0][0].querySelector("summary").focus();
    });
    show();
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
