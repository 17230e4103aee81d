(() => {
"use strict";
// Fields in full, beside the explorer: what is drawn comes from the server that this page came from.
const $ = (id) => document.getElementById(id);
const {save, csv, framed} = globalThis.wsdino;
const channels = [...document.querySelectorAll("[data-field-channel]")];
let shown = null, listed = [], asked = 0;

const make = (tag, content = "", attributes = {}) => {
  const element = document.createElement(tag);
  element.append(...[content].flat());
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};
const get = async (path, parameters = {}) => {
  const answer = await fetch(`${path}?${new URLSearchParams(parameters)}`);
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.json();
};
const address = (site, more = {}) => `field/${site}?${new URLSearchParams({
  channels: channels.filter((each) => each.checked).map((each) => each.dataset.fieldChannel).join(","),
  contrast: $("fields-contrast").value, low: $("fields-low").value, high: $("fields-high").value, ...more})}`;

const draw = () => {
  const box = $("fields-pair");
  if (!shown) return;
  box.classList.toggle("pixels", $("fields-full").checked);
  const figure = (site, words, alt, bar) => make("figure", [framed(make("img", "", {src: address(site), alt}), bar ?? []), make("figcaption", words)]);
  const figures = [figure(shown.site, `${shown.name}${shown.moa ? ` (${shown.moa})` : ""}`, `Field of ${shown.name}`, shown.bar)];
  if (shown.control !== null) figures.push(figure(shown.control, `controls, plate ${shown.plate}`, `Field of controls on plate ${shown.plate}`, shown.control_bar));
  box.replaceChildren(...figures);
};
const neighbours = async () => {
  if (!shown) return;
  const mine = ++asked, list = $("fields-neighbours");
  try {
    const found = await get(`neighbours/${shown.site}`, {num: $("fields-num").value || 10, apart: $("fields-apart").value});
    // An answer that comes late must not replace that to a later question.
    if (mine !== asked) return;
    listed = found;
    list.replaceChildren(...found.map((each) => {
      const open = make("button", each.name, {type: "button"});
      open.addEventListener("click", () => show(each.site));
      const facts = [each.moa, `cosine ${each.cosine.toFixed(3)}`].filter(Boolean).join(", ");
      return make("li", [make("img", "", {src: address(each.site, {px: 128}), alt: "", loading: "lazy"}),
        make("div", [open, make("span", facts, {class: "note"})])]);
    }));
  } catch (error) {
    if (mine !== asked) return;
    listed = [];
    list.replaceChildren(make("li", error.message));
  }
  $("fields-csv").disabled = !listed.length;
};
const show = async (site) => {
  shown = await get(`site/${site}`);
  draw();
  await neighbours();
};

let typed = 0;
$("fields-find").addEventListener("input", async (event) => {
  const mine = ++typed, text = event.target.value.trim(), box = $("fields-found");
  const found = text ? await get("find", {text}) : [];
  if (mine !== typed) return;
  $("fields-count").textContent = text ? `${found.length}${found.length === 200 ? " or more" : ""} found` : "";
  box.replaceChildren(...found.slice(0, 20).map((each) => {
    const open = make("button", each.name, {type: "button"});
    open.addEventListener("click", () => show(each.site));
    return make("li", open);
  }));
});
for (const each of [...channels, $("fields-contrast"), $("fields-low"), $("fields-high"), $("fields-full")])
  each.addEventListener("change", () => { draw(); if (each !== $("fields-full")) neighbours(); });
for (const id of ["fields-apart", "fields-num"]) $(id).addEventListener("change", neighbours);
$("fields-csv").addEventListener("click", () => save("neighbours.csv", csv([
  ["of", "site", "name", "place", "plate", "mechanism", "cosine"],
  ...listed.map((each) => [shown.name, each.site, each.name, each.place, each.plate, each.moa, each.cosine])]), "text/csv"));
addEventListener("explored", (event) => {
  if (event.detail.site >= 0) show(event.detail.site);
});
})();
