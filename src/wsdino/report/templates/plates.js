(() => {
"use strict";
// Wells of heat maps: one stop for the keyboard in each measure, from which keys lead to any other. It is an element anew
// at each well, so that screen readers say where it is.
const liveMap = document.getElementById("explorer-plot");
const {plates, plate, well, treatment, treatments} = JSON.parse(document.getElementById("plates-wells").textContent);
const heat = (part) => {
  const svgs = new Map([...part.querySelectorAll("svg.plate")].map((svg) => [svg.dataset.plate, svg]));
  const {name, values} = JSON.parse(part.querySelector(".figure-data").textContent), said = part.querySelector(".said");
  const shown = [...well.keys()].filter((n) => values[n] !== null && svgs.has(plates[plate[n]]));
  const column = (n) => Number(well[n].match(/\d+/)[0]) - 1;
  const row = (n) => [...well[n].match(/[A-Z]+/)[0]].reduce((sum, letter) => 26 * sum + letter.charCodeAt(0) - 64, 0) - 1;
  const words = (n) => `${plates[plate[n]]} ${well[n]}, ${treatments[treatment[n]] || "treatment not known"}: ${name} ${Number(values[n].toPrecision(3))}`;
  const say = (n) => { said.textContent = n === undefined ? "\u00a0" : words(n); };
  const ask = (n) => dispatchEvent(new CustomEvent("explore-well", {detail: {place: `${plates[plate[n]]} ${well[n]}`, treatment: treatments[treatment[n]]}}));
  let cursor = null, now = 0;
  const to = {
    ArrowRight: () => now + 1, ArrowLeft: () => now - 1,
    ArrowDown: (n) => shown.findIndex((other) => plate[other] === plate[n] && column(other) === column(n) && row(other) > row(n)),
    ArrowUp: (n) => shown.findLastIndex((other) => plate[other] === plate[n] && column(other) === column(n) && row(other) < row(n)),
    Home: (n) => shown.findIndex((other) => plate[other] === plate[n]),
    End: (n) => shown.findLastIndex((other) => plate[other] === plate[n]),
    PageDown: (n) => shown.findIndex((other) => plate[other] > plate[n] && well[other] === well[n]),
    PageUp: (n) => shown.findLastIndex((other) => plate[other] < plate[n] && well[other] === well[n]),
  };
  const put = (next) => {
    if (!(next in shown)) return;
    const n = shown[next], old = cursor, svg = svgs.get(plates[plate[n]]);
    const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
    now = next;
    cursor = document.createElement(liveMap ? "button" : "span");
    cursor.className = "well";
    cursor.setAttribute("aria-label", words(n));
    if (liveMap) cursor.type = "button";
    else [cursor.tabIndex, cursor.role] = [0, "img"];
    Object.assign(cursor.style, {left: `${100 * column(n) / width}%`, top: `${100 * row(n) / height}%`, width: `${100 / width}%`, height: `${100 / height}%`});
    cursor.addEventListener("focus", () => say(n));
    cursor.addEventListener("click", () => ask(n));
    cursor.addEventListener("keydown", (event) => {
      if (!(event.key in to)) return;
      event.preventDefault();
      put(to[event.key](n));
    });
    svg.after(cursor);
    if (old === document.activeElement) cursor.focus();
    old?.remove();
  };
  put(0);
  for (const [label, svg] of svgs) {
    const under = (event) => {
      const box = svg.getBoundingClientRect(), [, , width] = svg.getAttribute("viewBox").split(" ").map(Number);
      const [x, y] = [event.clientX - box.left, event.clientY - box.top].map((px) => Math.floor(px * width / box.width));
      return shown.findIndex((n) => plates[plate[n]] === label && column(n) === x && row(n) === y);
    };
    svg.addEventListener("pointermove", (event) => say(shown[under(event)]));
    svg.addEventListener("click", (event) => {
      const next = under(event);
      put(next);
      if (next in shown) ask(shown[next]);
    });
  }
};
for (const part of document.querySelectorAll("details.measure:has(svg.plate)")) {
  const once = () => {
    if (!part.open || part.dataset.filled) return;
    part.dataset.filled = "yes";
    heat(part);
  };
  once();
  part.addEventListener("toggle", once);
}
})();
