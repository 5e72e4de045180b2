// What the pages can do beyond being read: filter the claims, copy commands, show charts.
// What a reader chose stands behind the # of the address, as #verdict=reproduced&q=RoBERTa, so that
// a reload and a link keep it. Other scripts of a page may keep names of their own there.
"use strict";

const state = () => new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");

/** Write what was chosen into the address; an empty choice leaves it. */
function keep(choices) {
  const kept = state();
  for (const [name, value] of Object.entries(choices))
    if (value) kept.set(name, value);
    else kept.delete(name);
  const hash = kept.size ? `#${kept}` : " ";
  history.replaceState(null, "", hash === " " ? location.href.split("#")[0] : hash);
}

// Filter ------------------------------------------------------------------------------------------

for (const form of document.querySelectorAll("form.filter")) {
  const rows = [...document.querySelectorAll(".claims tr[data-figure]")];
  const fields = [...form.elements].filter((field) => field.name);
  const shows = (row) => fields.every(({ name, value }) => name === "q"
    ? value.toLowerCase().split(/\s+/).every((word) => row.textContent.toLowerCase().includes(word))
    : !value || row.dataset[name] === value);
  const apply = () => {
    for (const row of rows) row.hidden = !shows(row);
    for (const body of document.querySelectorAll(".claims tbody"))
      body.hidden = ![...body.rows].some((row) => row.dataset.figure && !row.hidden);
    const shown = rows.filter((row) => !row.hidden).length;
    form.querySelector("output").textContent = `${shown} of ${rows.length} claims`;
  };
  const restore = () => {
    const kept = state();
    if (!fields.some(({ name }) => kept.has(name))) return;
    for (const field of fields) field.value = kept.get(field.name) ?? "";
    apply();
    form.scrollIntoView();
  };
  const chosen = () => {
    apply();
    keep(Object.fromEntries(fields.map(({ name, value }) => [name, value])));
  };
  form.hidden = false;
  form.addEventListener("input", chosen);
  form.addEventListener("change", chosen);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.querySelector("button").addEventListener("click", () => {
    form.reset();
    chosen();
  });
  addEventListener("hashchange", restore);
  apply();
  restore();
}

// Commands ----------------------------------------------------------------------------------------

for (const code of document.querySelectorAll("pre > code")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(code); // for Ctrl-C, where the clipboard is closed to us
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Selected";
    }
  });
  code.parentElement.append(button);
}

// Charts: the first of each box, and a list of all where there are several --------------------------

const options = { renderer: "svg", actions: { export: true, source: false, compiled: false, editor: false } };

for (const box of document.querySelectorAll(".charts")) {
  const scripts = [...box.querySelectorAll("script")];
  const frame = document.createElement("div");
  const place = document.createElement("div"); // the library gives it a style of its own
  frame.className = "drawing";
  frame.append(place);
  const show = (i) => {
    vegaEmbed(place, JSON.parse(scripts[i].textContent), options);
    box.querySelectorAll(".note").forEach((note, j) => (note.hidden = i !== j));
  };
  box.prepend(frame);
  box.hidden = false;
  let first = 0;
  if (scripts.length > 1) {
    const list = document.createElement("select");
    const label = document.createElement("label");
    for (const { dataset } of scripts) list.add(new Option(dataset.name));
    first = Math.max(0, scripts.findIndex(({ dataset }) => dataset.name === state().get(box.id)));
    list.selectedIndex = first;
    list.addEventListener("change", () => {
      show(list.selectedIndex);
      keep({ [box.id]: list.selectedIndex ? list.value : "" });
    });
    label.append("Quantity", list);
    box.prepend(label);
  }
  show(first);
}
