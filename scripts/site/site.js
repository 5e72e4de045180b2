// What the pages can do beyond being read: filter the claims, copy commands, explore the grids.
"use strict";

const LOWEST_TO_HIGHEST = [ // cividis, which colour-blind readers see as others do
  [0, 34, 78], [42, 63, 109], [87, 93, 109], [125, 124, 120], [165, 156, 116], [210, 192, 96],
  [254, 232, 56],
];
const SPAN_OF_LOGARITHMS = 50; // largest over smallest number from which an axis is logarithmic
const WORDY = 12; // columns up to which a cell has room for its number

function element(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "text", "circle", "g"].includes(tag);
  const made = svg
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function short(x) {
  if (typeof x !== "number") return x ?? "";
  const size = Math.abs(x);
  if (size >= 1e4 && size < 1e9)
    return new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(x);
  if (x && (size < 1e-3 || size >= 1e9)) return x.toExponential(1);
  return String(Number(x.toPrecision(3)));
}

// Filters and commands ----------------------------------------------------------------------------

for (const form of document.querySelectorAll("form.filter")) {
  const rows = [...form.parentElement.querySelectorAll("tbody tr")];
  const apply = () => {
    const wanted = [...form.elements].filter((field) => field.value && field.name);
    for (const row of rows) row.hidden = wanted.some((f) => row.dataset[f.name] !== f.value);
    const shown = rows.filter((row) => !row.hidden).length;
    form.querySelector("output").textContent = `${shown} of ${rows.length} claims`;
  };
  form.hidden = false;
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  apply(); // a reloaded page keeps its choices
}

for (const command of document.querySelectorAll("pre.command")) {
  const button = element("button", { type: "button" }, "Copy");
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(command.querySelector("code")); // for Ctrl-C, where all else fails
    try {
      await navigator.clipboard.writeText(command.querySelector("code").textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Selected";
    }
  });
  command.append(button);
}

// Charts ------------------------------------------------------------------------------------------

/** An axis: numbers to pixels, logarithmic where they span much, with a few round ticks. */
function axis(numbers, from, to, logarithmic) {
  let low = Math.min(...numbers), high = Math.max(...numbers);
  if (logarithmic) [low, high] = [Math.log10(low), Math.log10(high)];
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  const place = (x) => from + (((logarithmic ? Math.log10(x) : x) - low) / (high - low)) * (to - from);
  const rough = (high - low) / 5, ten = 10 ** Math.floor(Math.log10(rough));
  let step = ten * [1, 2, 5, 10].find((factor) => factor * ten >= rough);
  if (logarithmic) step = Math.max(1, Math.round(step));
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++)
    ticks.push(logarithmic ? 10 ** (i * step) : Number((i * step).toPrecision(12)));
  return { place, ticks };
}

/**
 * Lines with bands as an SVG.
 * series: [{name, colour, x, mean, low, high, faint}], null where there is no number.
 */
function chart(series, labels, mark) {
  const [width, height, left, right, top, bottom] = [440, 250, 56, 20, 10, 38];
  const finite = (list) => list.filter((x) => Number.isFinite(x));
  const xs = finite(series.flatMap((s) => s.x)).sort((a, b) => a - b);
  const ys = finite(series.flatMap((s) => [...s.mean, ...s.low, ...s.high]));
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": labels.alt });
  if (!xs.length || !ys.length) return element("p", { class: "note" }, "No number in this cell.");
  const uneven = xs[0] > 0 && xs[xs.length >> 1] / xs[xs.length - 1] < 0.2;
  const positive = Math.min(...ys) > 0 && Math.max(...ys) / Math.min(...ys) > SPAN_OF_LOGARITHMS;
  const across = axis(xs, left, width - right, uneven);
  const up = axis(ys, height - bottom, top, positive);
  const line = (x1, y1, x2, y2, name) => element("line", { x1, y1, x2, y2, class: name });
  const text = (x, y, anchor, string) => element("text", { x, y, "text-anchor": anchor }, string);
  for (const tick of up.ticks) {
    svg.append(line(left, up.place(tick), width - right, up.place(tick), "rule"));
    svg.append(text(left - 6, up.place(tick) + 4, "end", short(tick)));
  }
  for (const tick of across.ticks) {
    const name = labels.ticks ? labels.ticks[tick] : short(tick);
    if (name !== undefined) svg.append(text(across.place(tick), height - bottom + 16, "middle", name));
  }
  svg.append(text((left + width - right) / 2, height - 4, "middle", labels.x));
  if (mark !== undefined) svg.append(line(across.place(mark), top, across.place(mark), height - bottom, "mark"));
  for (const { colour, x, mean, low, high, faint } of series) {
    const point = (ends, i) => `${across.place(x[i]).toFixed(1)},${up.place(ends[i]).toFixed(1)}`;
    const group = element("g", { style: `--colour:${colour}`, class: faint ? "faint" : "" });
    let start = 0;
    while (start < x.length) { // a stretch of numbers at a time: gaps stay gaps
      if (!Number.isFinite(mean[start])) { start += 1; continue; }
      let end = start;
      while (end + 1 < x.length && Number.isFinite(mean[end + 1])) end += 1;
      const stretch = Array.from({ length: end - start + 1 }, (_, i) => start + i);
      const banded = stretch.filter((i) => Number.isFinite(low[i]) && Number.isFinite(high[i]));
      if (banded.length > 1) {
        const outline = [...banded.map((i) => point(high, i)), ...banded.reverse().map((i) => point(low, i))];
        group.append(element("path", { class: "band", d: `M${outline.join("L")}Z` }));
      }
      if (stretch.length > 1)
        group.append(element("path", { class: "line", d: `M${stretch.map((i) => point(mean, i)).join("L")}` }));
      else group.append(element("circle", { cx: across.place(x[start]), cy: up.place(mean[start]), r: 2.5 }));
      start = end + 1;
    }
    svg.append(group);
  }
  return svg;
}

// Grids -------------------------------------------------------------------------------------------

/** A map of any metric over any two axes, and beside it what stands behind the cell in focus. */
function explore(root) {
  const data = JSON.parse(root.querySelector("script").textContent);
  const axes = Object.keys(data.axes);
  const cells = new Map(data.cells.map((cell) => [cell.at.join(), cell]));
  const state = { down: data.down, across: data.across, metric: 0, curve: data.curves[0] };
  let at = Object.fromEntries(axes.map((name, i) => [name, data.cells[0].at[i]])); // the focus
  const middle = { ...at, optimizer: data.axes.optimizer.length - 1 };
  for (const name of [state.down, state.across])
    if (name !== "optimizer") middle[name] = data.axes[name].length >> 1;
  const find = (place) => cells.get(axes.map((name) => place[name]).join());
  const called = (name, i) => (name === "optimizer" ? data.names[data.axes[name][i]] : data.axes[name][i]);
  if (typeof find(middle)?.values[0][0] === "number") at = middle;
  const colour = (place) => data.colours[data.axes.optimizer[place.optimizer]];

  const controls = element("div", { class: "controls" });
  const maps = element("div", { class: "maps" });
  const detail = element("div", { class: "detail", "aria-live": "polite" });
  root.append(controls, element("div", { class: "explorer" }, maps, detail));

  /** Of a cell: "0.123 ± 0.004", and how many of its seeds have the number. */
  function described(cell) {
    if (!cell) return "no run";
    const [mean, std, count] = cell.values[state.metric];
    if (mean === null) return `none of ${cell.seeds} seeds${cell.diverged ? ` (${cell.diverged} diverged)` : ""}`;
    const text = short(mean) + (typeof std === "number" ? ` ± ${short(std)}` : "");
    const lost = cell.diverged ? `, ${cell.diverged} diverged` : "";
    return count === cell.seeds ? text : `${text} (${count} of ${cell.seeds} seeds${lost})`;
  }

  function choice(title, options, chosen, act) {
    const select = element("select");
    options.forEach(([value, name]) => select.append(element("option", { value }, name)));
    select.value = chosen;
    select.addEventListener("change", () => { act(select.value); draw(title); });
    controls.append(element("label", { "data-name": title }, title, select));
    return select;
  }

  function drawControls() {
    controls.replaceChildren();
    if (data.metrics.length > 1)
      choice("metric", data.metrics.map((m, i) => [i, m]), state.metric, (v) => { state.metric = Number(v); });
    if (data.curves.length > 1)
      choice("curve", data.curves.map((m) => [m, m]), state.curve, (v) => { state.curve = v; });
    if (axes.length > 2)
      for (const [one, other] of [["down", "across"], ["across", "down"]])
        choice(one, axes.map((name) => [name, name]), state[one], (v) => {
          if (v === state[other]) state[other] = state[one];
          state[one] = v;
        });
    for (const name of axes)
      if (![state.down, state.across, "optimizer"].includes(name))
        choice(name, data.axes[name].map((v, i) => [i, v]), at[name], (v) => { at[name] = Number(v); });
  }

  /** The optimizers each have a map, unless they are an axis of the only one. */
  function places() {
    const lone = [state.down, state.across].includes("optimizer");
    return (lone ? [at.optimizer] : data.axes.optimizer.map((_, i) => i)).map((optimizer) =>
      data.axes[state.down].map((_, r) =>
        data.axes[state.across].map((_, c) => ({ ...at, optimizer, [state.down]: r, [state.across]: c }))));
  }

  function shades(shown) {
    const means = shown.map((cell) => cell?.values[state.metric][0]).filter((x) => typeof x === "number");
    means.sort((a, b) => a - b);
    if (!means.length) return { shade: () => null, low: null, high: null };
    // The worst cells would leave one colour for all the others.
    const quantile = (q) => means[Math.round(q * (means.length - 1))];
    const [low, high] = [quantile(0.05), quantile(0.95)];
    const scale = low > 0 && high / low > SPAN_OF_LOGARITHMS ? Math.log : (x) => x;
    const last = LOWEST_TO_HIGHEST.length - 1;
    const shade = (x) => {
      const share = high > low ? (scale(Math.max(low, Math.min(high, x))) - scale(low)) / (scale(high) - scale(low)) : 0.5;
      const i = Math.min(Math.floor(share * last), last - 1);
      return LOWEST_TO_HIGHEST[i].map((v, k) => Math.round(v + (share * last - i) * (LOWEST_TO_HIGHEST[i + 1][k] - v)));
    };
    return { shade, low, high };
  }

  function drawMaps() {
    const panels = places();
    const { shade, low, high } = shades(panels.flat(2).map(find));
    const narrow = data.axes[state.across].length > WORDY;
    maps.replaceChildren();
    for (const panel of panels) {
      const lone = [state.down, state.across].includes("optimizer");
      const table = element("table", { role: "grid", class: `map${narrow ? " narrow" : ""}${panel.length > 20 ? " long" : ""}` });
      table.append(element("caption", {}, lone ? data.metrics[state.metric] : called("optimizer", panel[0][0].optimizer),
        element("small", {}, `${state.down} ↓ ${state.across} →`)));
      const head = element("tr", {}, element("td", { class: "corner" }));
      data.axes[state.across].forEach((_, c) => head.append(element("th", { scope: "col" }, called(state.across, c))));
      const body = element("tbody");
      panel.forEach((row, r) => {
        const line = element("tr", {}, element("th", { scope: "row" }, called(state.down, r)));
        for (const place of row) line.append(square(place, shade, narrow));
        body.append(line);
      });
      table.append(element("thead", {}, head), body);
      maps.append(element("div", { class: "scroll" }, table));
    }
    if (low !== null)
      maps.append(element("p", { class: "key" }, `${data.metrics[state.metric]} `, short(low),
        element("span", { class: "ramp", "aria-hidden": "true" }), short(high)));
  }

  function square(place, shade, narrow) {
    const cell = find(place), box = element("td", { tabindex: -1, role: "gridcell" });
    const [mean, , count] = cell?.values[state.metric] ?? [null, null, 0];
    const colours = typeof mean === "number" ? shade(mean) : null;
    if (colours) {
      const bright = 0.3 * colours[0] + 0.59 * colours[1] + 0.11 * colours[2] > 115;
      box.style.cssText = `background:rgb(${colours});color:${bright ? "#111" : "#fff"}`;
    }
    const lost = cell ? cell.seeds - count : 0;
    if (!narrow && mean !== null) box.append(short(mean));
    if (lost) box.append(count ? element("sup", {}, `×${lost}`) : "×");
    box.classList.toggle("none", !cell);
    box.setAttribute("aria-label",
      [...axes.map((name) => `${name} ${called(name, place[name])}`), described(cell)].join(", "));
    box.place = place;
    return box;
  }

  function drawDetail() {
    const where = axes.filter((name) => name !== "optimizer").map((name) => `${name} ${data.axes[name][at[name]]}`);
    const rivals = data.axes.optimizer.map((_, optimizer) => ({ ...at, optimizer })).filter(find);
    const list = element("ul", { class: "rivals" });
    for (const place of rivals) {
      const item = element("li", { style: `--colour:${colour(place)}` },
        element("b", {}, called("optimizer", place.optimizer)), ` ${described(find(place))}`);
      item.classList.toggle("chosen", place.optimizer === at.optimizer);
      list.append(item);
    }
    const series = rivals.map((place) => ({
      name: called("optimizer", place.optimizer), colour: colour(place), faint: place.optimizer !== at.optimizer,
      ...(data.curves.length ? curve(place) : slice(place)),
    }));
    series.sort((a, b) => b.faint - a.faint); // the chosen one on top
    const metric = data.curves.length ? state.curve : data.metrics[state.metric];
    const names = data.axes[state.down], numeric = names.every((v) => v !== "" && Number.isFinite(Number(v)));
    const x = data.curves.length ? "step" : state.down;
    const ends = series.map((s) => `${s.name} ends at ${short(s.mean.findLast((v) => Number.isFinite(v)) ?? "no number")}`);
    const labels = { x, alt: `${metric} against ${x}. ${ends.join(", ")}.` };
    if (!data.curves.length && !numeric) labels.ticks = names;
    const mark = data.curves.length ? undefined : numeric ? Number(names[at[state.down]]) : at[state.down];
    detail.replaceChildren(
      element("h3", {}, where.join(", ")), element("p", { class: "axis" }, data.metrics[state.metric]), list,
      element("p", { class: "axis" }, data.curves.length ? metric : ""), chart(series, labels, mark),
      element("p", { class: "note" }, data.curves.length ? "Mean and range over the seeds." : "Mean ± standard deviation over the seeds."));
  }

  function curve(place) {
    const kept = find(place).curves;
    if (!kept) return { x: [], mean: [], low: [], high: [] };
    const [mean, low, high] = kept[state.curve];
    return { x: kept.steps, mean, low, high };
  }

  /** Where no curves were kept: the metric along the axis that goes down. */
  function slice(place) {
    const names = data.axes[state.down], numeric = names.every((v) => Number.isFinite(Number(v)));
    const values = names.map((_, i) => find({ ...place, [state.down]: i })?.values[state.metric] ?? [null, null, 0]);
    const shifted = (sign) => values.map(([m, s]) => (typeof m === "number" && typeof s === "number" ? m + sign * s : null));
    return { x: numeric ? names.map(Number) : names.map((_, i) => i), mean: values.map(([m]) => m), low: shifted(-1), high: shifted(1) };
  }

  function choose(box, focus) {
    at = { ...box.place };
    for (const other of maps.querySelectorAll("td[tabindex='0']")) other.tabIndex = -1;
    box.tabIndex = 0;
    if (focus) box.focus();
    for (const other of maps.querySelectorAll(".here")) other.classList.remove("here");
    box.classList.add("here");
    drawDetail();
  }

  function draw(changed) {
    drawControls();
    drawMaps();
    const same = (box) => axes.every((name) => box.place[name] === at[name]);
    choose([...maps.querySelectorAll("tbody td")].find(same));
    controls.querySelector(`[data-name="${changed}"] select`)?.focus();
  }

  maps.addEventListener("pointerover", ({ target }) => target.place && choose(target));
  maps.addEventListener("focusin", ({ target }) => target.place && choose(target));
  maps.addEventListener("click", ({ target }) => target.place && choose(target, true));
  maps.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (!event.target.place || !(event.key in moves)) return;
    event.preventDefault();
    // Rows run on through all maps: right of the last column is the next optimizer's first.
    const tables = [...maps.querySelectorAll("tbody")].map((body) => [...body.rows].map((row) => [...row.cells].slice(1)));
    const rows = tables[0].map((_, r) => tables.flatMap((table) => table[r]));
    const r = rows.findIndex((row) => row.includes(event.target)), [dr, dc] = moves[event.key];
    const next = rows[r + dr]?.[rows[r].indexOf(event.target) + dc];
    if (next) choose(next, true);
  });
  root.hidden = false;
  draw();
}

document.querySelectorAll(".grid").forEach(explore);
