(() => {
"use strict";
// Channels of the pictures: the columns of the filter that colours them.
const matrix = document.querySelector("#channels feColorMatrix");
const checks = [...document.querySelectorAll("[data-channel]")];
const recolour = () => {
  if (!matrix) return;
  const rows = [0, 1, 2].map((part) => [0, 1, 2].map((n) => {
    const own = checks.filter((check) => Number(check.dataset.channel) === n);
    const isOn = own.length > 0 && own.every((check) => check.checked);
    return isOn ? (parseInt(own[0].dataset.colour.slice(1 + 2 * part, 3 + 2 * part), 16) / 255).toFixed(4) : "0";
  }).concat("0", "0").join(" "));
  matrix.setAttribute("values", `${rows.join(" ")} 0 0 0 1 0`);
};
for (const check of checks) check.addEventListener("change", () => {
  for (const other of checks) if (other.dataset.channel === check.dataset.channel) other.checked = check.checked;
  recolour();
});

// Sortable tables: those of the page, and the long one, whose rows are made as they are needed.
const compare = (a, b) => {
  if (a === null || b === null) return (a === null) - (b === null);
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", {numeric: true});
};
const sorted = (rows, of, isUp) => [...rows].sort((a, b) => {
  const [x, y] = [of(a), of(b)];
  // What is missing stays last.
  return x === null || y === null ? compare(x, y) : (isUp ? 1 : -1) * compare(x, y);
});
const long = document.getElementById("treatments-data");
const setUp = (table, sort) => {
  for (const [n, head] of [...table.tHead.rows[0].cells].entries()) {
    const act = document.createElement("button");
    act.type = "button";
    act.append(...head.childNodes);
    head.append(act);
    act.addEventListener("click", () => {
      const isUp = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", isUp ? "ascending" : "descending");
      sort(n, isUp);
    });
  }
};
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], number = /^[-+]?[\d,]*\.?\d+(e[-+]?\d+)?/i;
  setUp(table, (n, isUp) => body.append(...sorted(body.rows, (row) => {
    const shown = row.cells[n].textContent.trim();
    if (shown === "-" || shown === "–" || !shown) return null;
    const found = row.cells[n].classList.contains("num") ? shown.match(number) : null;
    const parts = shown.match(/^(\d+)\/(\d+)$/);
    if (parts) return Number(parts[1]) / Number(parts[2]);
    return found ? Number(found[0].replaceAll(",", "")) : shown;
  }, isUp)));
}
if (long) {
  const {heads, rows} = JSON.parse(long.textContent), table = document.getElementById("treatments-table");
  const STEP = 200, more = document.getElementById("treatments-more"), find = document.getElementById("treatments-find");
  let order = rows, shown = STEP;
  const fill = () => {
    const words = find.value.trim().toLowerCase();
    const found = words ? order.filter((row) => row.some((cell) => String(cell ?? "").toLowerCase().includes(words))) : order;
    table.tBodies[0].replaceChildren(...found.slice(0, shown).map((cells) => {
      const line = document.createElement("tr");
      heads.forEach((head, n) => {
        const cell = document.createElement(n ? "td" : "th");
        const value = cells[n + 1];
        if (!n) {
          cell.scope = "row";
          const open = document.createElement("button");
          open.type = "button";
          open.className = "link";
          open.textContent = value;
          open.addEventListener("click", () => dispatchEvent(new CustomEvent("explore", {detail: cells[0]})));
          cell.append(open);
        } else {
          cell.textContent = value === null ? "-" : typeof value === "number" ? String(Number(value.toPrecision(head.digits))) : value;
          if (head.digits) cell.className = "num";
        }
        line.append(cell);
      });
      return line;
    }));
    more.hidden = found.length <= shown;
    more.textContent = `Show ${Math.min(STEP, found.length - shown)} more of ${found.length}`;
    document.getElementById("treatments-count").textContent = words ? `${found.length} of ${rows.length}` : `${rows.length} treatments`;
  };
  setUp(table, (n, isUp) => { order = sorted(rows, (row) => row[n + 1], isUp); fill(); });
  more.addEventListener("click", () => { shown += STEP; fill(); });
  find.addEventListener("input", () => { shown = STEP; fill(); });
  document.getElementById("treatments-tools").hidden = false;
  document.getElementById("treatments-note")?.remove();
  fill();
  addEventListener("beforeprint", () => { shown = rows.length; fill(); });
}

// Pictures with their scale bars: those of the page, anew.
const framed = (image, [label, width] = []) => {
  const frame = document.createElement("span");
  frame.className = "frame";
  frame.append(image);
  if (label) {
    frame.dataset.bar = label;
    frame.style.setProperty("--bar", width);
  }
  return frame;
};
const copied = (id, alt) => {
  const known = document.getElementById(id);
  if (!known) return null;
  const copy = new Image(), {dataset, style} = known.parentElement;
  copy.src = known.src; copy.alt = alt ?? known.alt; copy.className = known.className;
  return framed(copy, [dataset.bar, style.getPropertyValue("--bar")]);
};

// Fields of controls beside those of a compound, once it is opened.
for (const compound of document.querySelectorAll("details.compound")) compound.addEventListener("toggle", () => {
  if (!compound.open || compound.dataset.filled) return;
  compound.dataset.filled = "yes";
  for (const figure of compound.querySelectorAll("figure[data-control]")) {
    const control = copied(figure.dataset.control);
    if (!control) continue;
    const beside = document.createElement("figure"), caption = document.createElement("figcaption");
    caption.textContent = control.firstChild.alt;
    beside.append(control, caption);
    figure.after(beside);
  }
  const svg = compound.querySelector("svg.dose");
  if (!svg) return;
  const name = `dose-${compound.querySelector("summary").firstChild.textContent.trim().replace(/[^\p{L}\p{N}.]+/gu, "-")}`;
  const heads = ["dose, µM", "distance to controls", "fitted", "fitted, lower end", "fitted, upper end"];
  offer(svg, [["SVG", name, () => save(`${name}.svg`, drawing(svg), "image/svg+xml")],
    ["CSV", name, () => save(`${name}.csv`, csv([heads, ...JSON.parse(compound.dataset.curve)]), "text/csv")]]);
});

// Wrong pairs side by side.
const fillPairs = (part) => {
  for (const row of part.querySelectorAll("[data-pair]:not([data-filled])")) {
    row.dataset.filled = "yes";
    const cells = [row.cells[0], row.cells[2]];
    row.dataset.pair.split(" ").forEach((number, n) => {
      const copy = copied(`picture-${number}`);
      if (copy) cells[n].append(copy);
    });
  }
};
for (const part of document.querySelectorAll("#wrong_neighbours details")) {
  if (part.open) fillPairs(part);
  part.addEventListener("toggle", () => fillPairs(part));
}

// Figures as SVG, and figures and tables as CSV.
const save = (name, content, type) => {
  const link = document.createElement("a");
  link.download = name;
  link.href = URL.createObjectURL(new Blob([content], {type}));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};
const cell = (value) => {
  const plain = value === undefined || value === null ? "" : String(value);
  // A cell that begins like a formula is only text.
  const safe = typeof value === "string" && /^[=+@\t\r]|^-(?![\d.]*$)/.test(plain) ? `'${plain}` : plain;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
};
const csv = (rows) => rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
const plain = (text) => text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
globalThis.wsdino = {save, csv, framed, copied, plain};
const LOOK = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "opacity", "font-size", "font-weight", "text-anchor"];
const drawing = (svg, place = {}) => {
  const copy = svg.cloneNode(true), there = [svg, ...svg.querySelectorAll("*")], here = [copy, ...copy.querySelectorAll("*")];
  there.forEach((each, n) => {
    if (each.closest("defs")) return;
    const look = getComputedStyle(each);
    for (const name of LOOK) here[n].style.setProperty(name, look.getPropertyValue(name));
  });
  const [, , width, height] = svg.getAttribute("viewBox").split(" ");
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  copy.style.fontFamily = "sans-serif";
  for (const [name, value] of Object.entries(place)) copy.setAttribute(name, value);
  // Colours of the page that a drawing shares between its parts.
  const ofPage = getComputedStyle(document.documentElement);
  return new XMLSerializer().serializeToString(copy).replace(/var\((--[\w-]+)\)/g, (_, name) => ofPage.getPropertyValue(name).trim());
};
// Several small figures, drawings or pictures, as one, with their captions, scale and scale bars.
const lines = (words, most) => words.split("\n").flatMap((line) => line.match(new RegExp(`.{1,${most}}(?=\\s|$)|\\S+`, "g")) ?? []);
const sheet = (part, across = 4) => {
  const figures = [...part.querySelectorAll("figure")], side = 160, gap = 20, parts = [];
  across = Math.min(across, figures.length);
  let [y, tallest] = [gap + 14, 0];
  if (part.dataset.title) parts.push(`<text x="${gap}" y="20" font-size="13" font-weight="bold">${plain(part.dataset.title)}</text>`);
  const scale = part.querySelector(".scale");
  if (scale) {
    const steps = [...scale.querySelectorAll("i")], [low, high] = [...scale.querySelectorAll("span")].map((each) => plain(each.textContent));
    steps.forEach((step, n) => parts.push(`<rect x="${gap + 60 + 20 * n}" y="4" width="20" height="12" fill="${getComputedStyle(step).backgroundColor}"/>`));
    parts.push(`<text x="${gap + 55}" y="14" text-anchor="end">${low}</text><text x="${gap + 65 + 20 * steps.length}" y="14">${high}</text>`);
  }
  figures.forEach((figure, n) => {
    const svg = figure.querySelector("svg"), image = figure.querySelector("img"), x = gap + n % across * (side + gap);
    if (n && n % across === 0) [y, tallest] = [y + tallest + 10, 0];
    // What is yet to be loaded, since nobody has seen it, is square.
    const [width, height] = svg ? svg.getAttribute("viewBox").split(" ").slice(2).map(Number) : [image.naturalWidth || 1, image.naturalHeight || 1];
    const place = {x, y, width: side, height: side * height / width}, bar = image?.closest("[data-bar]");
    parts.push(svg ? drawing(svg, place) : `<image x="${x}" y="${y}" width="${side}" height="${place.height}" href="${image.src}"/>`);
    if (bar) {
      const long = side * parseFloat(bar.style.getPropertyValue("--bar")) / 100, [right, bottom] = [x + side - 5, y + place.height - 5];
      parts.push(`<path d="M${right - long} ${bottom}h${long}" stroke="#000" stroke-width="4"/><path d="M${right - long} ${bottom}h${long}" stroke="#fff" stroke-width="2.5"/>`,
        `<text x="${right}" y="${bottom - 5}" text-anchor="end" fill="#fff" stroke="#000" stroke-width="2" paint-order="stroke">${plain(bar.dataset.bar)}</text>`);
    }
    const words = lines([figure.dataset.of, figure.querySelector("figcaption").innerText].filter(Boolean).join("\n"), 28);
    words.forEach((line, at) => parts.push(`<text x="${x}" y="${y + place.height + 12 * (at + 1)}">${plain(line.trim())}</text>`));
    tallest = Math.max(tallest, place.height + 12 * words.length + 4);
  });
  const [width, height] = [gap + across * (side + gap), y + tallest + 10];
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="sans-serif" font-size="10">${parts.join("")}</svg>`;
};
const offer = (after, options) => {
  const bar = document.createElement("div");
  bar.className = "saves";
  for (const [label, what, act] of options) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.setAttribute("aria-label", `${label} of ${what}`);
    button.addEventListener("click", act);
    bar.append(button);
  }
  after.after(bar);
};
const shownText = (each) => {
  const text = each.textContent.trim(), plain = text.replaceAll(",", "");
  if (each.classList.contains("num") && /^-?[\d.]+(e[-+]?\d+)?$/i.test(plain)) return Number(plain);
  // Spreadsheets take 3/7 for a day.
  return text.replace(/^(\d+)\/(\d+)$/, "$1 of $2");
};
for (const figure of document.querySelectorAll("figure[data-name]")) {
  const {name} = figure.dataset, svg = figure.querySelector("svg"), data = figure.querySelector(".figure-data");
  const options = [["SVG", name, () => save(`${name}.svg`, drawing(svg), "image/svg+xml")]];
  if (data) options.push(["CSV", name, () => save(`${name}.csv`, csv(JSON.parse(data.textContent)), "text/csv")]);
  offer(figure, options);
}
// Maps of patches: two bytes for each value, between the lowest and the highest.
const unpacked = ({heads, maps}) => [heads, ...maps.flatMap(({labels, columns, planes}) => {
  const values = planes.map(({low, high, data}) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0)), view = new DataView(bytes.buffer);
    return Array.from({length: bytes.length / 2}, (_, n) => Number((low + (high - low) * view.getUint16(2 * n, true) / 65535).toPrecision(4)));
  });
  return values[0].map((_, n) => [...labels, Math.floor(n / columns), n % columns, ...values.map((plane) => plane[n])]);
})];
// Measures of wells have their values alone; which wells these are stands there once.
const wells = () => JSON.parse(document.getElementById("plates-wells").textContent);
const rowsOf = (data) => {
  const own = JSON.parse(data.textContent);
  if (Array.isArray(own)) return own;
  if (own.maps) return unpacked(own);
  const {plates, plate, well, treatment, treatments} = wells();
  return [["plate", "well", "treatment", own.name], ...own.values.map((value, n) => [plates[plate[n]], well[n], treatments[treatment[n]], value]).filter((row) => row[3] !== null)];
};
for (const data of document.querySelectorAll(".figure-data[data-name]")) {
  const {name} = data.dataset;
  offer(data, [["SVG", name, () => save(`${name}.svg`, sheet(data.parentElement), "image/svg+xml")],
    ["CSV", name, () => save(`${name}.csv`, csv(rowsOf(data)), "text/csv")]]);
}
for (const part of document.querySelectorAll("[data-sheet]")) {
  const name = part.dataset.sheet, data = part.querySelector(".figure-data");
  offer(part, [["SVG", name, () => save(`${name}.svg`, sheet(part, Number(part.dataset.across)), "image/svg+xml")],
    ["CSV", name, () => save(`${name}.csv`, csv(rowsOf(data)), "text/csv")]]);
}
for (const table of document.querySelectorAll("table[data-name]")) {
  const {name} = table.dataset;
  offer(table.closest(".scroll"), [["CSV", name, () => save(`${name}.csv`, csv(table.id === "treatments-table" && long
    ? (({heads, rows}) => [heads.map((head) => head.name), ...rows.map((row) => row.slice(1))])(JSON.parse(long.textContent))
    : [...table.rows].map((row) => [...row.cells].map(shownText))), "text/csv")]]);
}

for (const text of document.querySelectorAll("[data-copy]")) {
  offer(text, [["Copy", "the paragraph", () => {
    getSelection().selectAllChildren(text);
    document.execCommand("copy");
  }]]);
}

// What scrolls can be reached by keyboard.
const reach = () => {
  for (const box of document.querySelectorAll(".scroll:not([role]), .forest")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
};
addEventListener("resize", reach);
// All of it is laid out once the explorer is at work, or when somebody does something.
const whole = () => {
  document.documentElement.classList.remove("loading");
  reach();
};
addEventListener(document.getElementById("explorer-plot") ? "at-work" : "load", () => (globalThis.requestIdleCallback ?? setTimeout)(whole));
for (const type of ["pointerdown", "keydown"]) addEventListener(type, whole, {once: true, capture: true});

// A link into a closed part opens it, and what is printed is open.
const reveal = () => {
  const asked = /^#[\w-]+$/.test(location.hash) ? document.querySelector(location.hash) : null;
  for (let part = asked; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  asked?.scrollIntoView();
};
addEventListener("hashchange", reveal);
if (location.hash) reveal();
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const part of closed) part.open = true;
});
addEventListener("afterprint", () => { for (const part of closed) part.open = false; });
})();
