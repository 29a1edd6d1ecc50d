// What book/_press/browser.py asks of every page, from inside the page. It runs before all else.
"use strict";
(() => {
  const said = [];
  const short = (text) => String(text).slice(0, 160);
  addEventListener(
    "error",
    (event) => said.push(short(event.message || event.target.src || event.target.href)),
    true,
  );
  addEventListener("unhandledrejection", (event) => said.push(short(event.reason)));
  console.error = (...words) => said.push(short(words.join(" ")));

  const wait = (ms) => new Promise((done) => setTimeout(done, ms));

  async function until(ready, ms = 20000) {
    for (let passed = 0; passed < ms && !ready(); passed += 100) await wait(100);
    return Boolean(ready()); // not the promise itself, which `await` would open
  }

  function wide() {
    const found = document.documentElement.scrollWidth - innerWidth;
    return found > 0 ? [`${found} px wider than ${innerWidth}`] : [];
  }

  async function maths() {
    const formulas = document.querySelectorAll(".bd-article .math").length;
    if (!formulas) return [];
    if (!(await until(() => window.MathJax?.startup?.promise))) return ["no MathJax"];
    await MathJax.startup.promise;
    const bare = [...document.querySelectorAll(".bd-article .math")];
    const left = bare.filter((each) => !each.querySelector("mjx-container")).length;
    const wrong = document.querySelectorAll("mjx-merror").length;
    return [
      ...(left ? [`${left} of ${formulas} formulas not rendered`] : []),
      ...(wrong ? [`${wrong} formulas with an error`] : []),
    ];
  }

  function instruments() {
    const stuck = [];
    document.querySelectorAll(".ib-instrument").forEach((root, i) => {
      const look = () => [...root.querySelectorAll(".ib-line, .ib-picture, .ib-says")]
        .map((each) => each.getAttribute("d") ?? each.getAttribute("src") ?? each.textContent)
        .join("|");
      root.querySelectorAll("input").forEach((input) => {
        const kept = input.value;
        const seen = new Set();
        for (const value of [input.min, input.max]) {
          input.value = value;
          input.dispatchEvent(new Event("input"));
          seen.add(look());
        }
        input.value = kept;
        input.dispatchEvent(new Event("input"));
        if (seen.size < 2) stuck.push(`instrument ${i + 1}: a slider moves nothing`);
      });
    });
    return stuck;
  }

  async function axe() {
    if (!window.axe) return [];
    const options = { resultTypes: ["violations"], iframes: false, preload: false };
    const { violations } = await window.axe.run(document, options);
    return violations
      .filter((each) => ["serious", "critical"].includes(each.impact))
      .map((each) => short(`${each.id} (${each.nodes.length}): ${each.nodes[0].target.join(" ")}`));
  }

  // On paper nothing scrolls. The rules for print are made to hold here.
  function print() {
    for (const sheet of document.styleSheets) {
      const rules = [...sheet.cssRules];
      while (rules.length) {
        const rule = rules.pop();
        if (!(rule instanceof CSSMediaRule)) continue;
        if (rule.media.mediaText === "print") rule.media.mediaText = "all";
        else if (rule.media.mediaText === "screen") rule.media.mediaText = "not all";
        rules.push(...rule.cssRules);
      }
    }
    const cut = [...document.querySelectorAll(".bd-article *")].filter((each) =>
      each.clientWidth > 40 && each.scrollWidth > each.clientWidth + 2 &&
      getComputedStyle(each).overflowX !== "visible" && !each.closest("mjx-container, svg, span.math"));
    return cut.length
      ? [`${cut.length} cut: ` + short(cut.slice(0, 3).map((each) =>
          `${each.tagName.toLowerCase()}.${each.className} ${each.scrollWidth - each.clientWidth} px`).join(", "))]
      : [];
  }

  function loaded() {
    const all = performance.getEntriesByType("resource");
    // The search reads its index, and the pages that it quotes.
    const weighed = all.filter((each) => !/\/mathjax\/|\/__|\/searchindex\.js|\.html$|\/_static\/(scripts|vendor)\//.test(each.name));
    const document_ = performance.getEntriesByType("navigation")[0].decodedBodySize;
    return {
      elsewhere: all.map((each) => each.name)
        .filter((name) => /^https?:/.test(name) && !name.startsWith(location.origin + "/")),
      bytes: weighed.reduce((sum, each) => sum + each.decodedBodySize, document_),
    };
  }

  // The frame is given the width of a sheet before `print` is asked.
  window.inspectPage = async () => {
    const found = { maths: await maths() };
    found.search = !/search\.html\?q=/.test(location.href) ||
      (await until(() => document.querySelectorAll("#search-results li").length))
      ? [] : ["the search finds nothing"];
    const { elsewhere, bytes } = loaded();
    found.elsewhere = elsewhere;
    found.wide = wide();
    found.instruments = instruments();
    found.axe = await axe();
    return { found, bytes, said };
  };
  window.inspectPrint = print;
})();
