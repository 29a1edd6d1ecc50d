// Moves the instruments of ibau_lite.widgets in a built page: no kernel, no network.
"use strict";
{
  const [WIDTH, HEIGHT] = [296, 186]; // of the ground of the curves, as in widgets.py

  const scale = (value, limits, length, log) => {
    const [v, low, high] = log ? [value, ...limits].map(Math.log10) : [value, ...limits];
    return (length * (v - low)) / (high - low);
  };

  function path(data, line) {
    let d = "";
    let pen = "M";
    line.forEach((y, i) => {
      if (y === null || (data.log && y <= 0)) {
        pen = "M";
        return;
      }
      const across = scale(data.x[i], data.xlim, WIDTH, false);
      const up = HEIGHT - scale(y, data.ylim, HEIGHT, data.log);
      d += `${pen}${across.toFixed(1)} ${Math.min(Math.max(up, -9999), 9999).toFixed(1)}`;
      pen = "L";
    });
    return d;
  }

  function start(root) {
    const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
    const inputs = [...root.querySelectorAll("input")];
    const show = () => {
      let state = 0;
      inputs.forEach((input, i) => {
        const { values } = data.controls[i];
        const at = Number(input.value);
        state = state * values.length + at;
        input.setAttribute("aria-valuetext", values[at]);
        input.parentElement.querySelector("output").textContent = values[at];
      });
      if (data.images) {
        root.querySelector(".ib-picture").src = data.images[state];
      } else {
        root.querySelectorAll(".ib-line").forEach((line, i) => {
          line.setAttribute("d", path(data, data.lines[state][i]));
        });
      }
      root.querySelector(".ib-says").textContent = data.says[state];
    };
    inputs.forEach((input) => input.addEventListener("input", show));
    root.querySelector(".ib-controls").hidden = false;
    show(); // a browser may have kept the sliders where they were
  }

  const all = () => document.querySelectorAll(".ib-instrument").forEach(start);
  if (document.readyState === "loading") {
    document.addEventListener("DOMContentLoaded", all);
  } else {
    all();
  }
}
