(() => {
"use strict";
const data = JSON.parse(document.getElementById("explorer-data").textContent);
const $ = (id) => document.getElementById(id);
const GREY = "#8a939c", MAX_LISTED = 50, MAX_FOUND = 20;
const BRIEF = ["Mechanism", "Active", "q value"];
const PALETTE = data.palette, SHAPES = data.shapes, RAMP = data.ramp;
const levels = new Map(data.levels.map((level) => [level.name, level]));
const state = {level: "treatments", colour: "", find: "", select: [], hidden: new Set(), isUnfolded: false};
let view = null;

// Small helpers.
const make = (tag, content = "", attributes = {}) => {
  const element = document.createElement(tag);
  element.append(...[content].flat());
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};
const button = (content, act, attributes = {}) => {
  const element = make("button", content, {type: "button", ...attributes});
  element.addEventListener("click", act);
  return element;
};
const column = (level, name) => level.columns.find((each) => each.name === name);
// Of wells its name says where their own labels were in the fit.
const distanceOf = (level) => level.columns.find((each) => each.name.startsWith("Distance to controls"));
const value = (each, row) => each.labels ? each.labels[each.codes[row]] : each.values[row];
const text = (each, row) => {
  const found = value(each, row);
  if (found === undefined || found === null) return "–";
  return each.labels ? found : String(Number(found.toPrecision(each.digits)));
};
const PATHS = {circle: "M6 1.4a4.6 4.6 0 1 0 .01 0z", square: "M2 2h8v8H2z", triangle: "M6 1.2 11 10.2H1z",
    diamond: "M6 .8 11.2 6 6 11.2 .8 6z", inverted_triangle: "M6 10.8 11 1.8H1z"};
const swatch = (colour, shape) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 12 12"); svg.setAttribute("class", "swatch");
  svg.setAttribute("aria-hidden", "true"); path.setAttribute("d", PATHS[shape]);
  path.setAttribute("fill", colour); svg.append(path);
  return svg;
};
const {save, csv, copied: picture, plain} = globalThis.wsdino;

// Colour, shape and legend.
const styleOf = (each, code) => {
  if (code < 0) return [GREY, "circle"];
  const known = each.name === "Mechanism" ? data.styles[each.labels[code]] : undefined;
  return known || [PALETTE[code % PALETTE.length], SHAPES[code % SHAPES.length]];
};
const scale = (each) => {
  const known = each.values.filter((v) => v !== null && (!each.log || v > 0));
  const map = each.log ? Math.log10 : (v) => v;
  const low = Math.min(...known), high = Math.max(...known);
  const span = map(high) - map(low);
  return {low, high, colour: (v) => v === null || (each.log && v <= 0) || !known.length ? GREY
    : RAMP[Math.round((RAMP.length - 1) * (span > 0 ? (map(v) - map(low)) / span : 0.5))]};
};
const matching = (level) => {
  const words = state.find.toLowerCase();
  level.lower ??= level.names.map((name) => name.toLowerCase());
  const labelled = level.columns.filter((each) => each.labels)
    .map((each) => [each.codes, each.labels.map((label) => label.toLowerCase().includes(words))]);
  return (row) => level.lower[row].includes(words) || labelled.some(([codes, found]) => found[codes[row]]);
};

const draw = () => {
  const level = levels.get(state.level), each = column(level, state.colour);
  if (level.pending) return;
  const number = each && each.values ? scale(each) : null;
  const chosen = new Set(state.select), matches = state.find ? matching(level) : () => true;
  const size = level.names.length > 10000 ? 4 : level.names.length > 1500 ? 7 : level.names.length > 300 ? 9 : 12;
  const found = {x: level.x, y: level.y, colour: [], line: [], shape: [], size: [], alpha: []};
  const visible = [];
  const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
  level.names.forEach((_, row) => {
    const [colour, shape] = !each ? [PALETTE[0], "circle"]
      : number ? [number.colour(each.values[row]), "circle"] : styleOf(each, each.codes[row]);
    const isFound = chosen.has(row) || matches(row);
    found.colour.push(colour); found.shape.push(shape);
    found.line.push(ink);
    found.size.push(isFound ? size : size * 0.7);
    found.alpha.push(isFound ? 0.85 : 0.12);
    visible.push(!(each && each.labels && state.hidden.has(each.codes[row])));
  });
  view.source.data = found;
  view.visible.booleans = visible;
  view.glyphs.selection_glyph.line_color = {value: ink};
  view.source.selected.indices = state.select;
};

const legend = () => {
  const level = levels.get(state.level), each = column(level, state.colour), box = $("explorer-legend");
  box.replaceChildren();
  $("explorer-legend-tools").hidden = !(each && each.labels);
  if (!each) return;
  if (each.values) {
    const {low, high} = scale(each);
    const stops = RAMP.filter((_, n) => n % 16 === 0).concat(RAMP.at(-1)).join(",");
    const show = (v) => Number.isFinite(v) ? Number(v.toPrecision(each.digits)) : "–";
    box.append(make("div", "", {class: "ramp", style: `background:linear-gradient(90deg,${stops})`}),
      make("p", [make("span", String(show(low))), make("span", each.log ? "logarithmic" : ""), make("span", String(show(high)))], {class: "ends"}),
      make("p", [swatch(GREY, "circle"), "no value"]));
    return;
  }
  const counts = new Map();
  for (const code of each.codes) counts.set(code, (counts.get(code) || 0) + 1);
  const asked = $("explorer-legend-find").value.toLowerCase();
  const codes = [...each.labels.keys(), ...(counts.has(-1) ? [-1] : [])];
  for (const code of codes) {
    const name = code < 0 ? "no value" : each.labels[code];
    if (!name.toLowerCase().includes(asked)) continue;
    const check = make("input", "", {type: "checkbox"});
    check.checked = !state.hidden.has(code);
    check.addEventListener("change", () => {
      state.hidden[check.checked ? "delete" : "add"](code);
      draw();
    });
    box.append(make("label", [check, swatch(...styleOf(each, code)), name, make("span", String(counts.get(code) || 0), {class: "count"})]));
  }
};

// Fields: those of the page, coloured by the same filter.
const pair = (level, row) => {
  const treatment = level.of[row], site = level.name === "treatments" ? undefined : level.sites?.[row];
  // A server has a picture of every field, a page those of some wells, or of treatments alone.
  if (site >= 0 && level.name !== "treatments") return [make("figure", make("img", "", {src: `field/${site}?px=224`, alt: `Field of ${level.names[row]}`}))];
  const id = level.fields?.[row], [place, plate] = (id ? data.fields[id] : data.pictures[treatment]) || [];
  if (place === undefined) return [];
  const isOwn = id || level.name === "treatments";
  const own = make("figure", [picture(id || `picture-${treatment}`, `Field of ${level.names[row]}`),
    make("figcaption", isOwn ? place : `${place}, which stands for the treatment`)]);
  const control = plate < 0 ? null : picture(`control-${plate}`, `Field of controls on plate ${data.plates[plate]}`);
  return control ? [own, make("figure", [control, make("figcaption", `controls, plate ${data.plates[plate]}`)])] : [own];
};

// The wells of a treatment, with their fields where the page has them.
const replicates = (treatment) => {
  const wells = levels.get("wells"), name = levels.get("treatments").names[treatment];
  const of = () => [...wells.of.keys()].filter((row) => wells.of[row] === treatment);
  if (!wells) return [];
  const show = async (rows) => { await toLevel("wells"); if (state.level === "wells") pick(rows()); };
  const head = [make("h3", "Replicates"), button("Show them on the map of wells", () => show(of), {class: "link"})];
  if (wells.pending) return head;
  const distance = distanceOf(wells);
  const list = of().slice(0, MAX_LISTED).map((row) => {
    const site = wells.sites?.[row], thumb = site >= 0 ? make("img", "", {src: `field/${site}?px=128`, alt: "", loading: "lazy"})
      : wells.fields?.[row] ? picture(wells.fields[row], "").firstChild : null;
    return make("li", [...(thumb ? [thumb] : []), make("div", [
      button(wells.names[row].slice(name.length + 2), () => show(() => [row])),
      make("span", distance ? `${distance.name.replace("D", "d")} ${text(distance, row)}` : "", {class: "note"})])]);
  });
  return [...head, make("ul", list, {class: "neighbours"})];
};

// The treatments most like one, and the way to all of its compound's doses.
const similar = (treatment) => {
  const all = levels.get("treatments"), moa = column(all, "Mechanism"), plates = column(all, "Plate");
  const list = data.neighbours[treatment].map(([other, cosine]) => {
    const plate = plates ? text(plates, other) : data.plates[(data.pictures[other] || [])[1]];
    const facts = [moa ? text(moa, other) : "", plate ? `plate ${plate}` : "", `cosine ${cosine.toFixed(3)}`];
    const thumb = picture(`picture-${other}`, "");
    // Too small for a scale bar.
    return make("li", [...(thumb ? [thumb.firstChild] : []), make("div", [
      button(all.names[other], async () => { await toLevel("treatments"); pick([other]); }),
      make("span", facts.filter(Boolean).join(", "), {class: "note"})])]);
  });
  const place = document.querySelector(`details[data-rows~="${treatment}"]`);
  return [make("h3", "Most similar treatments"), make("ol", list, {class: "neighbours"}),
    ...(place ? [make("p", make("a", "All doses of the compound", {href: `#${place.id}`}))] : [])];
};

const details = () => {
  const level = levels.get(state.level), box = $("explorer-details"), rows = state.select;
  box.replaceChildren();
  box.scrollTop = 0;
  $("explorer-csv").textContent = rows.length ? `CSV of the ${rows.length} selected` : "CSV of all shown";
  if (!rows.length) {
    box.append(make("p", "Click a point, draw a lasso, or search; the fields, the nearest neighbours and all that is known appear here.", {class: "note"}));
    return;
  }
  if (rows.length > 1) {
    box.append(make("h3", `${rows.length} selected`));
    const list = make("ul", "", {class: "chosen"});
    for (const row of rows.slice(0, MAX_LISTED)) list.append(make("li", button(level.names[row], () => pick([row]))));
    box.append(list);
    if (rows.length > MAX_LISTED) box.append(make("p", `and ${rows.length - MAX_LISTED} more; the CSV has all.`, {class: "note"}));
    return;
  }
  const [row] = rows, treatment = level.of[row];
  box.append(make("h3", level.names[row]));
  // What it does, looks like and resembles; all else is folded, and stays as it was left.
  const brief = [...BRIEF.map((name) => column(level, name)), distanceOf(level)].filter((each) => each && text(each, row) !== "–");
  if (brief.length) box.append(make("p", brief.map((each) => `${each.labels ? "" : `${each.name} `}${text(each, row)}`).join(", "), {class: "note"}));
  const fields = pair(level, row);
  if (fields.length) box.append(make("div", fields, {class: "pair"}));
  if (treatment >= 0) box.append(...similar(treatment), ...replicates(treatment));
  const facts = make("dl", "", {class: "facts"});
  for (const each of level.columns) facts.append(make("dt", each.name), make("dd", text(each, row)));
  const fold = make("details", [make("summary", "All that is known"), facts]);
  fold.open = state.isUnfolded;
  fold.addEventListener("toggle", () => { state.isUnfolded = fold.open; });
  box.append(fold);
};

// What a person does.
const remember = () => {
  const parts = new URLSearchParams({map: state.level, colour: state.colour});
  if (state.find) parts.set("find", state.find);
  if (state.select.length && state.select.length <= 500) parts.set("select", state.select.join("."));
  history.replaceState(null, "", `#${parts}`);
};
const pick = (rows) => {
  state.select = rows;
  draw();
  details();
  remember();
  dispatchEvent(new CustomEvent("explored", {detail: {level: state.level, rows, site: rows.length === 1 ? levels.get(state.level).sites?.[rows[0]] : undefined}}));
};
const search = () => {
  state.find = $("explorer-find").value.trim();
  const level = levels.get(state.level), box = $("explorer-found");
  const rows = state.find ? [...level.names.keys()].filter(matching(level)) : [];
  box.replaceChildren();
  $("explorer-count").textContent = state.find ? `${rows.length} found` : "";
  if (rows.length) {
    if (rows.length > 1) box.append(make("li", button(`Select all ${rows.length}`, () => pick(rows))));
    for (const row of rows.slice(0, MAX_FOUND)) box.append(make("li", button(level.names[row], () => pick([row]))));
  }
  draw();
  remember();
};
const setColour = (name) => {
  const level = levels.get(state.level);
  state.colour = column(level, name) ? name : (level.columns[0] || {name: ""}).name;
  state.hidden.clear();
  $("explorer-colour").value = state.colour;
  $("explorer-legend-find").value = "";
  legend();
};
const toColour = (name) => {
  setColour(name);
  draw();
};
// Where a server has the map it is asked for; what a person asks for meanwhile comes before it.
let asked = 0;
const laidOut = async (level) => {
  const mine = ++asked;
  if (!level.pending) return true;
  $("explorer-note").textContent = `Laying out the map of ${level.name} …`;
  const answer = await fetch(`map/${level.name}`).catch(() => null);
  if (answer?.ok && level.pending) {
    Object.assign(level, await answer.json());
    level.pending = false;
  }
  if (mine === asked && level.pending) {
    $("explorer-note").textContent = `The map of ${level.name} could not be had: ${answer ? (await answer.text()).trim() : "no answer"}`;
    $("explorer-level").value = state.level;
  }
  return mine === asked && !level.pending;
};
const toLevel = async (name) => {
  if (name === state.level && view.source.data.x.length) return;
  const level = levels.get(name), select = $("explorer-colour");
  if (level.pending && !await laidOut(level)) return;
  asked += 1;
  state.level = name;
  state.select = [];
  $("explorer-level").value = name;
  select.replaceChildren(...level.columns.map((each) => make("option", each.name, {value: each.name})));
  $("explorer-note").textContent = `${level.method} of ${level.names.length} ${name}. ${level.note}`;
  setColour(state.colour);
  search();
  details();
};
const zoom = (factor) => {
  for (const range of [view.plot.x_range, view.plot.y_range]) {
    const middle = (range.start + range.end) / 2, half = (range.end - range.start) / 2 * factor;
    range.setv({start: middle - half, end: middle + half});
  }
};
const reset = () => {
  const margin = data.extent / 25;
  for (const range of [view.plot.x_range, view.plot.y_range]) range.setv({start: -margin, end: data.extent + margin});
};
const table = () => {
  const level = levels.get(state.level);
  const rows = state.select.length ? state.select : [...level.names.keys()].filter((row) => view.visible.booleans?.[row]);
  save(`${state.level}.csv`, csv([["name", ...level.columns.map((each) => each.name), "map x", "map y"],
    ...rows.map((row) => [level.names[row], ...level.columns.map((each) => value(each, row)), level.x[row], level.y[row]])]), "text/csv");
};
// The map as it is shown, with its legend.
const vector = () => {
  const level = levels.get(state.level), each = column(level, state.colour), points = view.source.data;
  const {x_range: across, y_range: up} = view.plot, side = 640, parts = [];
  const place = (v, range) => side * (v - range.start) / (range.end - range.start);
  const mark = (x, y, size, shape, colour, alpha) => parts.push(
    `<path transform="translate(${x.toFixed(1)} ${y.toFixed(1)}) scale(${size / 12}) translate(-6 -6)" d="${PATHS[shape]}" fill="${colour}" fill-opacity="${alpha}" stroke="#222" stroke-width=".8"/>`);
  level.names.forEach((_, row) => {
    const [x, y] = [place(points.x[row], across), side - place(points.y[row], up)];
    if (view.visible.booleans[row] && Math.min(x, y) >= 0 && Math.max(x, y) <= side) mark(x, y, points.size[row], points.shape[row], points.colour[row], points.alpha[row]);
  });
  const lines = !each ? [] : each.values
    ? [[RAMP.at(-1), "circle", scale(each).high], [RAMP[RAMP.length >> 1], "circle", each.log ? "(logarithmic)" : ""], [RAMP[0], "circle", scale(each).low]]
    : [...each.labels.keys()].filter((code) => !state.hidden.has(code)).map((code) => [...styleOf(each, code), each.labels[code]]);
  parts.push(`<text x="${side + 16}" y="18" font-weight="bold">${plain(state.colour)}</text>`);
  lines.forEach(([colour, shape, words], n) => {
    mark(side + 22, 34 + 16 * n, 10, shape, colour, 1);
    parts.push(`<text x="${side + 34}" y="${38 + 16 * n}">${plain(String(typeof words === "number" ? Number(words.toPrecision(each.digits)) : words))}</text>`);
  });
  const [width, height] = [side + 260, Math.max(side, 50 + 16 * lines.length)];
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="sans-serif" font-size="11"><rect width="${side}" height="${side}" fill="none" stroke="#8a939c"/>${parts.join("")}</svg>`;
};
const hover = (event) => {
  const card = $("explorer-card"), [row] = view.source.inspected.indices;
  if (row === undefined || !event || event.type === "pointerleave") { card.hidden = true; return; }
  const level = levels.get(state.level);
  if (card.dataset.row !== `${state.level} ${row}`) {
    card.dataset.row = `${state.level} ${row}`;
    const each = column(level, state.colour), moa = column(level, "Mechanism");
    const facts = [moa, each].filter((c, n, all) => c && all.indexOf(c) === n && c.name !== "Compound");
    card.replaceChildren(make("strong", level.names[row]), ...facts.map((c) => make("span", `${c.name}: ${text(c, row)}`)),
      make("div", pair(level, row), {class: "pair"}));
  }
  const box = $("explorer-stage").getBoundingClientRect();
  const x = event.clientX - box.left, y = event.clientY - box.top;
  card.hidden = false;
  card.style.left = `${Math.max(0, Math.min(x + 16, box.width - card.offsetWidth))}px`;
  card.style.top = `${y + 16 + card.offsetHeight > box.height ? Math.max(0, y - card.offsetHeight - 16) : y + 16}px`;
};

const start = async () => {
  const made = Bokeh.documents.at(-1), named = (name) => made.get_model_by_name(name);
  view = {plot: named("map"), source: named("points"), visible: named("visible"), glyphs: named("glyphs")};
  const tools = ["move", "lasso", "zoom"].map(named);
  const use = (name) => {
    for (const tool of tools) tool.active = tool.name === name;
    for (const each of document.querySelectorAll("[data-tool]")) each.setAttribute("aria-pressed", String(each.dataset.tool === name));
  };
  for (const each of document.querySelectorAll("[data-tool]")) each.addEventListener("click", () => use(each.dataset.tool));
  use("move");
  view.source.selected.properties.indices.change.connect(() => {
    const rows = [...view.source.selected.indices].filter((row) => view.visible.booleans[row]).sort((a, b) => a - b);
    if (rows.join() !== state.select.join()) pick(rows);
  });
  const stage = $("explorer-stage");
  let last = null;
  for (const type of ["pointermove", "pointerleave"]) stage.addEventListener(type, (event) => { last = event; hover(event); });
  // Bokeh looks for points a moment after the pointer has moved.
  view.source.inspect.connect(() => hover(last));
  $("explorer-level").addEventListener("change", (event) => toLevel(event.target.value));
  $("explorer-colour").addEventListener("change", (event) => { toColour(event.target.value); remember(); });
  $("explorer-find").addEventListener("input", search);
  $("explorer-find").addEventListener("keydown", (event) => {
    if (event.key === "Enter") $("explorer-found").querySelector("button")?.click();
    if (event.key === "Escape") { event.target.value = ""; search(); pick([]); }
  });
  $("explorer-legend-find").addEventListener("input", legend);
  $("explorer-all").addEventListener("click", () => { state.hidden.clear(); legend(); draw(); });
  $("explorer-none").addEventListener("click", () => {
    const each = column(levels.get(state.level), state.colour);
    state.hidden = new Set([-1, ...each.labels.keys()]);
    legend();
    draw();
  });
  $("explorer-in").addEventListener("click", () => zoom(0.7));
  $("explorer-out").addEventListener("click", () => zoom(1 / 0.7));
  $("explorer-reset").addEventListener("click", reset);
  $("explorer-clear").addEventListener("click", () => pick([]));
  $("explorer-csv").addEventListener("click", table);
  $("explorer-svg").addEventListener("click", () => save(`map-${state.level}.svg`, vector(), "image/svg+xml"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  // What was asked for elsewhere on the page; the keyboard goes along.
  const show = (row) => {
    pick([row]);
    $("treatment_map").scrollIntoView();
    $("explorer-details").focus({preventScroll: true});
  };
  addEventListener("explore", async (event) => {
    await toLevel("treatments");
    show(event.detail);
  });
  addEventListener("explore-well", async (event) => {
    const {place, treatment} = event.detail;
    const at = (name, is) => levels.get(name)?.names.findIndex(is) ?? -1;
    const well = () => at("wells", (name) => name.endsWith(`, ${place}`));
    if (levels.get("wells")?.pending || well() >= 0) await toLevel("wells");
    if (well() >= 0) return show(well());
    // Of very many wells the map has some; its treatment stands for one that it hasn't.
    const row = at("treatments", (name) => name === treatment);
    if (row < 0) return;
    await toLevel("treatments");
    show(row);
  });
  const restore = async () => {
    const asked = new URLSearchParams(location.hash.slice(1)), name = asked.get("map");
    if (!levels.has(name)) return false;
    const level = levels.get(name), rows = (asked.get("select") || "").split(".").filter(Boolean).map(Number);
    $("explorer-find").value = asked.get("find") || "";
    state.colour = asked.get("colour") || "";
    view.source.data = {...view.source.data, x: []};
    await toLevel(name);
    if (!level.pending) pick(rows.filter((row) => row in level.names));
    return true;
  };
  addEventListener("hashchange", restore);
  if (!await restore()) {
    const hash = location.hash;
    await toLevel("treatments");
    history.replaceState(null, "", hash || location.pathname + location.search);
  }
  document.documentElement.dataset.explorer = "ready";
  dispatchEvent(new Event("at-work"));
};

const unpacked = async (text) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
};
(async () => {
  const bokeh = document.createElement("script");
  bokeh.textContent = await unpacked($("bokeh").textContent);
  document.body.append(bokeh);
  $("explorer").hidden = false;
  document.documentElement.classList.add("live");
  await Bokeh.embed.embed_item(data.plot, "explorer-plot");
  await start();
})();
})();
