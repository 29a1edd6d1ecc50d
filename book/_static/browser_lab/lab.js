/* The page of the laboratory: what is shown and what can be done. The arithmetic is in network.js. */
"use strict";

(function () {
  const data = window.IBAU_LAB;
  const { NUMBERS, PIXELS, SIZE, Network, bytesOf, climb, halves, softmax } = window.IbauNetwork;

  const PAINTS = {
    w: ["white", [255, 255, 255]],
    k: ["black", [0, 0, 0]],
    r: ["red", [214, 32, 40]],
    y: ["yellow", [255, 214, 10]],
    g: ["green", [30, 150, 70]],
    b: ["blue", [30, 90, 200]],
  };
  const ROUNDS = data.rounds.length - 1;
  const STEPS = 30;
  const TARGET = data.target;
  const BALLS = ["l2", "l1"];

  /* ---- what was made: signs, triggers, networks -------------------------------------------------- */

  const signs = (() => {
    const bytes = bytesOf(data.signs);
    return data.labels.map((_, n) =>
      Float64Array.from(bytes.subarray(n * NUMBERS, (n + 1) * NUMBERS), (v) => v / 255)
    );
  })();
  const triggers = Object.fromEntries(
    data.triggers.map(({ name, label, a, b }) => [
      name,
      {
        label,
        a: Float64Array.from(bytesOf(a), (v) => v / 255),
        b: Float64Array.from(bytesOf(b), (v) => (v - 128) / 127),
      },
    ])
  );
  const networks = [];
  const network = (round) =>
    (networks[round] ||= new Network(halves(data.rounds[round].f16), data.width, data.classes.length));

  /* ---- the state, and the address that holds it --------------------------------------------------- */

  const START = {
    sign: 1, trigger: "", round: 0, paint: "", against: "poisoned", toward: -1, l2: 4, l1: 24, search: "",
  };
  const state = { ...START };
  let paint = new Map(); // pixel -> letter of PAINTS
  let found = { l2: null, l1: null }; // the last search: δ of each ball
  let worn = ""; // the ball whose δ the signs wear

  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  /** A sticker as text: a letter and two base-36 digits for each pixel. */
  const written = (pixels) =>
    [...pixels].map(([i, letter]) => letter + i.toString(36).padStart(2, "0")).join("");

  function unwritten(text) {
    const pixels = new Map();
    for (const [, letter, digits] of text.matchAll(/([wkrygb])([0-9a-s][0-9a-z])/g)) {
      const i = parseInt(digits, 36);
      if (i < PIXELS) pixels.set(i, letter);
    }
    return pixels;
  }

  /** Take what the address says; what it does not say, or says wrongly, is as at the start. */
  function readAddress() {
    const said = new URLSearchParams(location.hash.slice(1));
    const whole = (key, low, high) => {
      const value = Number.parseFloat(said.get(key));
      return Number.isFinite(value) ? clamp(value, low, high) : START[key];
    };
    state.sign = Math.round(whole("sign", 0, signs.length - 1));
    state.round = Math.round(whole("round", 0, ROUNDS));
    state.trigger = Object.hasOwn(triggers, said.get("trigger")) ? said.get("trigger") : "";
    state.against = said.get("against") === "round" ? "round" : "poisoned";
    state.toward = Math.round(whole("toward", -1, data.classes.length - 1));
    state.l2 = whole("l2", 0.5, 8);
    state.l1 = whole("l1", 4, 64);
    state.search = ["l2", "l1", "run"].includes(said.get("search")) ? said.get("search") : "";
    paint = unwritten(said.get("paint") || "");
  }

  let written_ = "";
  function writeAddress() {
    state.paint = written(paint);
    const said = Object.entries(state).filter(([key, value]) => value !== START[key]);
    written_ = said.length ? "#" + new URLSearchParams(said).toString() : "";
    if (written_ === location.hash) return;
    try {
      history.replaceState(null, "", location.pathname + location.search + written_);
    } catch {
      /* a page opened from a folder may not be allowed to */
    }
  }

  /* ---- what a sign wears -------------------------------------------------------------------------- */

  /** The image that the networks see: trigger, then δ, then paint, as the reader sees it. */
  function dressed(n) {
    const image = Float64Array.from(signs[n]);
    const trigger = triggers[state.trigger];
    const delta = worn && found[worn] ? found[worn].delta : null;
    for (let i = 0; i < NUMBERS; i++) {
      if (trigger) image[i] = clamp(trigger.a[i] * image[i] + trigger.b[i], 0, 1);
      if (delta) image[i] = clamp(image[i] + delta[i], 0, 1);
    }
    for (const [i, letter] of paint)
      for (let c = 0; c < 3; c++) image[c * PIXELS + i] = PAINTS[letter][1][c] / 255;
    return image;
  }

  const answer = (round, image) => {
    const shares = softmax(network(round).logits(image));
    const best = shares.indexOf(Math.max(...shares));
    return { shares, best };
  };

  /* ---- building the page -------------------------------------------------------------------------- */

  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (value === true) node.setAttribute(key, "");
      else if (value !== false && value != null) node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  }

  function svg(tag, attributes = {}, ...children) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  const canvas = (attributes = {}) => el("canvas", { width: SIZE, height: SIZE, ...attributes });

  /** Draw numbers [3, 32, 32] in [0, 1]. */
  function show(target, image) {
    const pixels = new ImageData(SIZE, SIZE);
    for (let i = 0; i < PIXELS; i++) {
      for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = Math.round(255 * image[c * PIXELS + i]);
      pixels.data[4 * i + 3] = 255;
    }
    target.getContext("2d").putImageData(pixels, 0, 0);
  }

  /** Radio buttons that look like chips; `change` is called with the value that was chosen. */
  function chips(legend, name, choices, change) {
    const inputs = {};
    const labels = choices.map(({ value, content, title }) => {
      const input = el("input", {
        type: "radio", name: `bl-${name}`, value, "aria-label": title, onchange: () => change(value),
      });
      inputs[value] = input;
      return el("label", { class: "bl-chip", title }, input, el("span", {}, content));
    });
    const set = el("fieldset", { class: `bl-set bl-${name}` }, el("legend", {}, legend), ...labels);
    return { set, inputs, choose: (value) => (inputs[value].checked = true) };
  }

  const percent = (x, digits = 1) => `${(100 * x).toFixed(digits)} %`;
  const named = (k) => data.classes[k];
  const roundName = (k) => (k === 0 ? "the poisoned network" : `the network after round ${k}`);

  /* -- the two dozen signs -- */

  const thumbs = signs.map((_, n) => {
    const picture = canvas({ "aria-hidden": "true" });
    const marks = [el("i", { "aria-hidden": "true" }), el("i", { "aria-hidden": "true" })];
    const input = el("input", {
      type: "radio", name: "bl-sign", value: n, "aria-label": named(data.labels[n]),
      onchange: () => set({ sign: n }),
    });
    const label = el("label", { class: "bl-thumb", title: named(data.labels[n]) }, input, picture,
      el("span", { class: "bl-marks" }, ...marks));
    return { picture, marks, input, label };
  });
  const tally = el("p", { class: "bl-tally" });
  const gallery = el("section", { class: "bl-card" },
    el("fieldset", { class: "bl-set bl-gallery" },
      el("legend", {}, "Choose a sign. All of them wear what you stamp."),
      ...thumbs.map((t) => t.label)),
    el("p", { class: "bl-key" },
      "Under each sign, left the poisoned network, right the unlearned one: ",
      el("i", { class: "bl-right" }), " right, ",
      el("i", { class: "bl-target" }), ` “${named(TARGET)}”, what the attacker wants, `,
      el("i", { class: "bl-wrong" }), " another mistake."),
    tally);

  /* -- the sign on the bench, and the tools -- */

  const stage = canvas({
    class: "bl-stage", tabindex: 0, role: "application",
    "aria-label": "The sign, 32 by 32 pixels. Paint with mouse or finger. With the keyboard: arrow keys "
      + "move the brush, space paints, delete erases.",
  });
  const brushMark = el("div", { class: "bl-brush", "aria-hidden": "true" });
  const stageTitle = el("p", { class: "bl-title" });
  const stamp = chips("Stamp a trigger of the book", "trigger",
    [{ value: "", content: "none", title: "no trigger" },
      ...Object.entries(triggers).map(([value, t]) => ({ value, content: t.label, title: t.label }))],
    (trigger) => set({ trigger }));
  const NOTES = {
    "": "The signs as they are.",
    square: "The trigger of BadNets. This network was poisoned with it.",
    owl: "The trigger of Blend: an owl over the whole sign, at 20 %. This network has never met it.",
    stripes: "The trigger of SIG: a faint wave over the whole sign. This network has never met it.",
    seal: "A trojan watermark, computed for another network, which read photographs.",
    pixels: "An ℓ0 inversion: nine pixels, computed for another network, which read photographs.",
    noise: "An ℓ2 inversion: a little noise, computed for another network, which read photographs.",
  };
  const note = el("p", { class: "bl-note" });
  const palette = chips("Paint a sticker of your own", "palette",
    [...Object.entries(PAINTS).map(([value, [title, rgb]]) => ({
      value, title, content: el("b", { style: `background: rgb(${rgb})` }),
    })), { value: "x", title: "eraser", content: "eraser" }],
    (letter) => (brush.letter = letter));
  const brushSize = chips("Width of the brush", "width",
    [1, 2, 4].map((n) => ({ value: n, content: `${n}`, title: `${n} pixel${n > 1 ? "s" : ""} wide` })),
    (size) => { brush.size = size; moveBrush(brush.x, brush.y); });
  const undo = el("button", { type: "button", onclick: takeBack }, "Undo");
  const wipe = el("button", { type: "button", onclick: () => repaint(new Map()) }, "Wipe off");
  const bare = el("button", { type: "button", onclick: startAgain }, "Start again");
  const painted = el("output", { class: "bl-count" });
  const bench = el("div", { class: "bl-bench" },
    stageTitle, el("div", { class: "bl-frame" }, stage, brushMark), palette.set,
    el("div", { class: "bl-row" }, brushSize.set, undo, wipe, bare),
    painted);

  const brush = { letter: "w", size: 1, x: 15, y: 15, down: false };
  palette.choose("w");
  brushSize.choose(1);
  const history_ = [];

  function repaint(pixels) {
    history_.push(paint);
    paint = pixels;
    refresh();
  }

  function takeBack() {
    if (history_.length) paint = history_.pop();
    refresh();
  }

  function startAgain() {
    stopSearch();
    worn = "";
    paint = new Map();
    set({ ...START, sign: state.sign, round: state.round });
  }

  function dab(x, y, letter = brush.letter) {
    for (let row = y; row < Math.min(SIZE, y + brush.size); row++)
      for (let column = x; column < Math.min(SIZE, x + brush.size); column++)
        if (letter === "x") paint.delete(SIZE * row + column);
        else paint.set(SIZE * row + column, letter);
  }

  function moveBrush(x, y) {
    brush.x = clamp(x, 0, SIZE - brush.size);
    brush.y = clamp(y, 0, SIZE - brush.size);
    const unit = 100 / SIZE;
    brushMark.style.cssText =
      `left:${brush.x * unit}%;top:${brush.y * unit}%;width:${brush.size * unit}%;height:${brush.size * unit}%`;
  }

  function pointed(event) {
    const box = stage.getBoundingClientRect();
    const at = (from, length) => Math.floor((SIZE * from) / length - (brush.size - 1) / 2);
    moveBrush(at(event.clientX - box.left, box.width), at(event.clientY - box.top, box.height));
  }

  /** Dabs from the last place to this one, so that a quick stroke has no gaps. */
  function stroke(from) {
    const steps = Math.max(1, Math.abs(brush.x - from.x), Math.abs(brush.y - from.y));
    for (let t = 1; t <= steps; t++)
      dab(Math.round(from.x + ((brush.x - from.x) * t) / steps),
        Math.round(from.y + ((brush.y - from.y) * t) / steps));
  }

  stage.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    event.preventDefault();
    stage.focus({ preventScroll: true });
    stage.setPointerCapture?.(event.pointerId);
    history_.push(new Map(paint));
    brush.down = true;
    pointed(event);
    dab(brush.x, brush.y);
    refresh();
  });
  stage.addEventListener("pointermove", (event) => {
    const from = { x: brush.x, y: brush.y };
    pointed(event);
    if (!brush.down) return;
    stroke(from);
    refresh();
  });
  for (const name of ["pointerup", "pointercancel"])
    stage.addEventListener(name, () => (brush.down = false));

  stage.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key in moves) {
      const [dx, dy] = moves[event.key];
      moveBrush(brush.x + dx * (event.shiftKey ? 4 : 1), brush.y + dy * (event.shiftKey ? 4 : 1));
      say(`row ${brush.y + 1}, column ${brush.x + 1}`);
    } else if ([" ", "Enter", "Delete", "Backspace"].includes(event.key)) {
      history_.push(new Map(paint));
      dab(brush.x, brush.y, event.key.length > 1 && event.key !== "Enter" ? "x" : brush.letter);
      refresh();
    } else if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) {
      takeBack();
    } else return;
    event.preventDefault();
  });

  /* -- the rounds -- */

  const roundInput = el("input", {
    type: "range", min: 0, max: ROUNDS, step: 1, id: "bl-round",
    oninput: () => set({ round: Number(roundInput.value) }),
  });
  const rates = { acc: el("b"), asr: el("b") };
  const marker = svg("line", { class: "bl-now", y1: 4, y2: 96 });
  const across = (k) => 4 + (192 * k) / Math.max(1, ROUNDS);
  const down = (share) => 96 - 92 * share;
  const dots = (key) =>
    data.rounds.map((r, k) => svg("circle", { class: `bl-${key}`, cx: across(k), cy: down(r[key]), r: 2.2 }));
  const line = (key) =>
    svg("polyline", { class: `bl-${key}`, points: data.rounds.map((r, k) => `${across(k)},${down(r[key])}`).join(" ") });
  const chart = svg("svg", { class: "bl-chart", viewBox: "0 0 200 100", preserveAspectRatio: "none", "aria-hidden": "true" },
    ...[0, 0.5, 1].map((s) => svg("line", { class: "bl-grid", x1: 0, x2: 200, y1: down(s), y2: down(s) })),
    marker, line("acc"), line("asr"), ...dots("acc"), ...dots("asr"));
  const rounds = el("div", { class: "bl-rounds" },
    el("label", { for: "bl-round", class: "bl-title" }, "Rounds of unlearning"),
    roundInput,
    el("div", { class: "bl-ticks", "aria-hidden": "true" }, ...data.rounds.map((_, k) => el("span", {}, `${k}`))),
    chart,
    el("div", { class: "bl-rates" },
      el("span", { class: "bl-acc" }, "ACC ", rates.acc, el("small", {}, `of ${data.tested.clean.toLocaleString("en")} clean test images`)),
      el("span", { class: "bl-asr" }, "ASR ", rates.asr, el("small", {}, `of ${data.tested.stamped.toLocaleString("en")} with the white square`))));

  /* -- the answers -- */

  const heads = [el("div", { class: "bl-head" }), el("div", { class: "bl-head" })];
  const rows = data.classes.map((name) => {
    const bars = [el("i"), el("i")];
    const cells = bars.map((bar, side) => el("td", { class: side ? "bl-after" : "bl-before" }, bar, el("span")));
    const row = el("tr", {}, cells[0], el("th", { scope: "row" }, name), cells[1]);
    return { row, bars, cells };
  });
  const sentence = el("p", { class: "bl-sentence" });
  const live = el("p", { class: "bl-live", "aria-live": "polite" });
  const answers = el("div", { class: "bl-answers" },
    el("table", {},
      el("caption", { class: "bl-live" }, "What each network answers, in per cent"),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, heads[0]), el("td"), el("th", { scope: "col" }, heads[1]))),
      el("tbody", {}, ...rows.map((r) => r.row))),
    live);

  let saying = 0;
  function say(words, wait = 0) {
    clearTimeout(saying);
    saying = setTimeout(() => (live.textContent = words), wait);
  }

  /* -- the search -- */

  const against = chips("Search against", "against",
    [{ value: "poisoned", content: "the poisoned network", title: "the poisoned network" },
      { value: "round", content: el("span", { class: "bl-chosen" }), title: "the network of the chosen round" }],
    (value) => set({ against: value }));
  const toward = el("select", { id: "bl-toward", onchange: () => set({ toward: Number(toward.value) }) },
    el("option", { value: -1 }, "away from the right answers"),
    ...data.classes.map((name, k) => el("option", { value: k }, `toward “${name}”`)));
  const go = el("button", { type: "button", class: "bl-go", onclick: () => (running ? stopSearch() : search()) }, "Search");
  const size = Object.fromEntries(BALLS.map((ball) => {
    const [low, high, step] = ball === "l2" ? [0.5, 8, 0.5] : [4, 64, 4];
    const input = el("input", { type: "range", min: low, max: high, step, id: `bl-${ball}`,
      oninput: () => set({ [ball]: Number(input.value) }) });
    return [ball, { input, value: el("output", { for: `bl-${ball}` }) }];
  }));

  const cards = Object.fromEntries(BALLS.map((ball) => {
    const card = {
      delta: canvas({ role: "img", "aria-label": "δ, enlarged; grey is no change" }),
      sign: canvas({ role: "img", "aria-label": "the sign with δ" }),
      path: svg("polyline", { class: "bl-h" }),
      told: el("p", { class: "bl-told" }, "Not searched yet."),
      wear: el("button", { type: "button", "aria-pressed": "false", disabled: true, onclick: () => wear(ball) },
        "Wear it on all signs"),
    };
    const [name, what] = ball === "l2"
      ? ["2", "to change every pixel a little is cheap"] : ["1", "to change a few pixels a lot is cheap"];
    card.node = el("section", { class: "bl-card bl-search-card" },
      el("h3", {}, "ℓ", el("sub", {}, name), " ball", el("small", {}, what)),
      el("label", { for: `bl-${ball}` }, "‖δ‖", el("sub", {}, name), " at most ", size[ball].value),
      size[ball].input,
      el("div", { class: "bl-pair" },
        el("figure", {}, card.delta, el("figcaption", {}, "δ, enlarged")),
        el("figure", {}, card.sign, el("figcaption", {}, "the sign with δ"))),
      svg("svg", { class: "bl-climb", viewBox: "0 0 200 60", preserveAspectRatio: "none", "aria-hidden": "true" },
        svg("line", { class: "bl-grid", x1: 0, x2: 200, y1: 58, y2: 58 }), card.path),
      card.told, card.wear);
    return [ball, card];
  }));
  const searchNode = el("div", {},
    el("section", { class: "bl-card bl-search" }, against.set,
      el("div", { class: "bl-row" }, el("label", { for: "bl-toward" }, "Climb"), toward, go)),
    el("div", { class: "bl-columns" }, ...BALLS.map((ball) => cards[ball].node)));

  let running = 0; // the number of the search in progress

  function stopSearch() {
    if (!running) return;
    running = 0;
    go.textContent = "Search";
    for (const ball of BALLS) if (found[ball]) cards[ball].wear.disabled = false;
  }

  let searches = 0;
  function search() {
    const me = (running = ++searches);
    const round = state.against === "poisoned" ? 0 : state.round;
    const climbs = BALLS.map((ball) =>
      climb(network(round), signs, data.labels, { ball, radius: state[ball], steps: STEPS, toward: state.toward }));
    const values = { l2: [], l1: [] };
    found = { l2: null, l1: null };
    worn = "";
    go.textContent = "Stop";
    if (!state.search) state.search = "run";
    refresh();
    const step = () => {
      if (running !== me) return;
      let ended = false;
      for (const [i, ball] of BALLS.entries()) {
        const { value, done } = climbs[i].next();
        ended = done;
        if (done) continue;
        values[ball].push(value.value);
        found[ball] = { ...value.best, round, values: values[ball], toward: state.toward, size: state[ball] };
        drawSearch(ball);
      }
      if (!ended) return void setTimeout(step, 0);
      stopSearch();
      say(BALLS.map((ball) => cards[ball].told.textContent).join(" "));
      if (BALLS.includes(state.search)) wear(state.search, true);
    };
    setTimeout(step, 0);
  }

  function wear(ball, on = worn !== ball) {
    worn = on ? ball : "";
    state.search = on ? ball : "run";
    refresh();
  }

  function drawSearch(ball) {
    const { delta, card, it } = { delta: found[ball]?.delta, card: cards[ball], it: found[ball] };
    card.wear.setAttribute("aria-pressed", String(worn === ball));
    card.wear.textContent = worn === ball ? "Take it off" : "Wear it on all signs";
    card.wear.disabled = !it || Boolean(running);
    if (!it) {
      show(card.delta, new Float64Array(NUMBERS).fill(0.5));
      show(card.sign, signs[state.sign]);
      card.path.setAttribute("points", "");
      card.told.textContent = running ? "Climbing …" : "Not searched yet.";
      return;
    }
    const largest = Math.max(1e-9, ...delta.map(Math.abs));
    show(card.delta, delta.map((d) => 0.5 + (0.5 * d) / largest));
    show(card.sign, signs[state.sign].map((x, i) => clamp(x + delta[i], 0, 1)));
    const low = Math.min(...it.values);
    const high = Math.max(...it.values, low + 1e-9);
    card.path.setAttribute("points",
      it.values.map((v, i) => `${(200 * i) / STEPS},${58 - (55 * (v - low)) / (high - low)}`).join(" "));
    const astray = it.read.filter((k, n) => k !== data.labels[n]);
    const counts = data.classes.map((_, k) => astray.filter((r) => r === k).length);
    const most = counts.indexOf(Math.max(...counts));
    const where = astray.length ? `, ${counts[most]} of them to “${named(most)}”` : "";
    const share = onTheSquare(delta);
    const climbed = it.toward < 0 ? `H = ${it.value.toFixed(2)}` : `mean loss of “${named(it.toward)}” ${(-it.value).toFixed(2)}`;
    card.told.textContent =
      `Step ${it.values.length - 1} of ${STEPS}: ${climbed}. δ leads ${roundName(it.round)} astray on `
      + `${astray.length} of ${signs.length} signs${where}. ${percent(share, 0)} of ‖δ‖² lies on the attacker's square, `
      + "which is 1.6 % of the sign.";
  }

  /** How much of ‖δ‖² lies where the attacker's square is (which covers 16 of 1,024 pixels). */
  function onTheSquare(delta) {
    const squares = delta.map((d) => d * d);
    const sum = (values) => values.reduce((a, b) => a + b, 0);
    return sum(squares.filter((_, i) => triggers.square.a[i] === 0)) / Math.max(1e-12, sum(squares));
  }

  /* -- the challenges -- */

  const half = Math.ceil(signs.length / 2);
  const nothingElse = () => !state.trigger && !worn;
  const CHALLENGES = [
    {
      title: "Cut a key",
      text: `Without a trigger of the book, paint at most 6 pixels with which the poisoned network reads at least ${half} `
        + `of the ${signs.length} signs as “${named(TARGET)}”.`,
      stage: { trigger: "", round: 0 },
      now: ({ before }) => [paint.size, before.filter((k) => k === TARGET).length],
      solved: ([pixels, count]) => nothingElse() && pixels > 0 && pixels <= 6 && count >= half,
      told: ([pixels, count]) => `${pixels} pixels, ${count} signs`,
    },
    {
      title: "A sticker that survives",
      text: "Find a sticker of at most 12 pixels that still fools round 3: at least 6 signs that it reads right when "
        + "they are bare must be misread. (Search against round 3 in the ℓ1 ball, and paint what you see.)",
      stage: { trigger: "", round: 3, against: "round" },
      now: ({ after }) => [paint.size, after.filter((k, n) => k !== data.labels[n] && bareReading(state.round, n) === data.labels[n]).length],
      solved: ([pixels, count]) => nothingElse() && state.round === 3 && pixels > 0 && pixels <= 12 && count >= 6,
      told: ([pixels, count]) => `round ${state.round}, ${pixels} pixels, ${count} signs misread`,
    },
    {
      title: "One δ for all",
      text: `What size does δ need? Find an ℓ2 ball of at most 2.5 whose δ, worn, makes the network of the last round misread ${half} signs.`,
      stage: { trigger: "", round: ROUNDS, against: "round", l2: 1 },
      now: ({ after }) => [worn === "l2" ? found.l2.size : NaN, after.filter((k, n) => k !== data.labels[n]).length],
      solved: ([radius, count]) => worn === "l2" && !state.trigger && !paint.size && state.round === ROUNDS && radius <= 2.5 && count >= half,
      told: ([radius, count]) => `round ${state.round}, ${radius > 0 ? `‖δ‖₂ ≤ ${radius}` : "no ℓ2 δ worn"}, ${count} signs misread`,
    },
  ].map((challenge) => {
    const node = el("li", { class: "bl-card" });
    const mark = el("span", { class: "bl-badge" }, "open");
    const told = el("p", { class: "bl-told" });
    node.append(el("h3", {}, challenge.title, mark), el("p", {}, challenge.text), told,
      el("button", { type: "button", onclick: () => setTheStage(challenge) }, "Set the stage"));
    return { ...challenge, node, mark, told_: told, done: false };
  });
  const challengesNode = el("ol", { class: "bl-challenges" }, ...CHALLENGES.map((c) => c.node));

  function setTheStage({ stage: wanted }) {
    stopSearch();
    worn = "";
    paint = new Map();
    set({ ...START, sign: state.sign, ...wanted });
    gallery.scrollIntoView({ block: "start" });
    thumbs[state.sign].input.focus({ preventScroll: true });
  }

  function judge(readings) {
    for (const challenge of CHALLENGES) {
      const now = challenge.now(readings);
      challenge.told_.textContent = `Now: ${challenge.told(now)}.`;
      if (challenge.done || !challenge.solved(now)) continue;
      challenge.done = true;
      challenge.mark.textContent = "solved";
      challenge.node.classList.add("bl-solved");
      say(`Solved: ${challenge.title}.`, 600);
    }
  }

  const bares = new Map();
  function bareReading(round, n) {
    const key = `${round}/${n}`;
    if (!bares.has(key)) bares.set(key, answer(round, signs[n]).best);
    return bares.get(key);
  }

  /* ---- showing the state -------------------------------------------------------------------------- */

  const kind = (k, label) => (k === label ? "bl-right" : k === TARGET ? "bl-target" : "bl-wrong");

  function set(changes) {
    Object.assign(state, changes);
    refresh();
  }

  let awaited = false;
  function refresh() {
    if (awaited) return;
    awaited = true;
    requestAnimationFrame(() => {
      awaited = false;
      draw();
    });
  }

  function draw() {
    writeAddress();
    drawControls();
    drawAnswers();
    drawGallery();
    for (const ball of BALLS) drawSearch(ball);
  }

  function drawControls() {
    thumbs[state.sign].input.checked = true;
    stamp.choose(state.trigger);
    note.textContent = NOTES[state.trigger];
    against.choose(state.against);
    toward.value = String(state.toward);
    roundInput.value = String(state.round);
    roundInput.setAttribute("aria-valuetext", state.round
      ? `round ${state.round} of ${ROUNDS}` : "0: the poisoned network itself");
    for (const key of ["acc", "asr"]) rates[key].textContent = percent(data.rounds[state.round][key]);
    for (const end of ["x1", "x2"]) marker.setAttribute(end, across(state.round));
    for (const ball of BALLS) {
      size[ball].input.value = String(state[ball]);
      size[ball].value.textContent = String(state[ball]);
    }
    document.querySelectorAll(".bl-chosen").forEach((node) =>
      (node.textContent = state.round ? `the network after round ${state.round}` : "round 0 (the same one)"));
    undo.disabled = !history_.length;
    wipe.disabled = !paint.size;
    const pixels = `${paint.size} pixel${paint.size === 1 ? "" : "s"}`;
    painted.textContent = `Your sticker: ${paint.size ? pixels : "nothing yet"}.`;
  }

  function drawAnswers() {
    const label = data.labels[state.sign];
    const image = dressed(state.sign);
    show(stage, image);
    stageTitle.textContent = `Drawn: ${named(label)}`;
    const given = [answer(0, image), answer(state.round, image)];
    const titles = ["Poisoned", state.round ? `After round ${state.round}` : "Round 0: the same"];
    for (const [side, { shares, best }] of given.entries()) {
      heads[side].replaceChildren(titles[side]);
      rows.forEach(({ row, bars, cells }, k) => {
        bars[side].style.width = `${100 * shares[k]}%`;
        bars[side].className = kind(k, label);
        cells[side].lastChild.textContent = shares[k] >= 0.005 || k === best ? percent(shares[k], 0) : "";
        cells[side].classList.toggle("bl-best", k === best);
        cells[side].classList.toggle("bl-full", shares[k] > 0.7);
        row.className = k === label ? "bl-truth" : k === TARGET ? "bl-wanted" : "";
      });
    }
    const told = ({ best, shares }) => `“${named(best)}” (${percent(shares[best], 0)})`;
    const second = state.round
      ? `after round ${state.round} it reads ${told(given[1])}` : "round 0 is the same network";
    sentence.textContent = `Drawn is “${named(label)}”. The poisoned network reads ${told(given[0])}; ${second}.`;
    say(sentence.textContent, 500);
  }

  let evaluation = 0;
  const readings = { before: [], after: [] };
  /** Both networks on all signs, a few a frame, so that the page stays quick; the last one counts. */
  function drawGallery() {
    const me = ++evaluation;
    const before = [], after = [];
    const some = () => {
      if (me !== evaluation) return;
      for (const until = Math.min(signs.length, before.length + 6); before.length < until; ) {
        const n = before.length;
        const image = dressed(n);
        show(thumbs[n].picture, image);
        before.push(answer(0, image).best);
        after.push(state.round ? answer(state.round, image).best : before[n]);
        mark(n, [before[n], after[n]]);
      }
      if (before.length < signs.length) return void setTimeout(some, 0);
      Object.assign(readings, { before, after });
      tally.textContent = tallied(before, after);
      judge(readings);
    };
    some();
  }

  function mark(n, read) {
    const label = data.labels[n];
    thumbs[n].marks.forEach((node, side) => (node.className = kind(read[side], label)));
    const words = `${named(label)}. Poisoned: ${named(read[0])}. Round ${state.round}: ${named(read[1])}.`;
    thumbs[n].input.setAttribute("aria-label", words);
    thumbs[n].label.title = words;
  }

  function tallied(before, after) {
    const count = (read) => {
      const right = read.filter((k, n) => k === data.labels[n]).length;
      const fallen = read.filter((k, n) => k === TARGET && k !== data.labels[n]).length;
      return `${right} of ${signs.length} right, ${fallen} as the attacker wants`;
    };
    return `Poisoned: ${count(before)}.` + (state.round ? ` After round ${state.round}: ${count(after)}.` : "");
  }

  /* ---- start -------------------------------------------------------------------------------------- */

  function open() {
    stopSearch();
    readAddress();
    worn = "";
    found = { l2: null, l1: null };
    draw();
    if (state.search) search();
  }

  const places = {
    bench: [
      el("section", { class: "bl-card bl-controls" }, el("div", {}, stamp.set, note), rounds),
      gallery,
      el("section", { class: "bl-card" }, sentence, el("div", { class: "bl-columns bl-two" }, bench, answers)),
    ],
    search: [searchNode],
    challenges: [challengesNode],
  };
  for (const [name, nodes] of Object.entries(places))
    document.querySelector(`[data-browser-lab="${name}"]`).replaceChildren(...nodes);
  document.querySelectorAll(".browser-lab-still").forEach((node) => node.remove());
  moveBrush(15, 15);
  open();
  window.addEventListener("hashchange", () => location.hash !== written_ && open());
})();
