// What the pages can do beyond being read: filter the claims, copy commands, explore the grids.
"use strict";

// cividis, from the lowest to the highest: colour-blind readers see it as others do.
const RAMP = [
  [0, 34, 78], [42, 63, 109], [87, 93, 109], [125, 124, 120],
  [165, 156, 116], [210, 192, 96], [254, 232, 56],
];
const LOGARITHMIC = 50; // largest over smallest number from which a scale is
const ROOMY = 12; // columns up to which a cell has room for its number
const SVG = ["svg", "path", "line", "text", "circle", "g"];

/** A new element with attributes and children. */
function element(tag, attributes = {}, ...children) {
  const made = SVG.includes(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const isNumber = (x) => typeof x === "number";

/** A number in about four characters; what is no number as it is. */
function short(x) {
  if (!isNumber(x)) return x ?? "";
  const size = Math.abs(x);
  if ((x && size < 1e-3) || size >= 1e9) return x.toExponential(1);
  if (size < 1e4) return String(Number(x.toPrecision(3)));
  return x.toLocaleString("en", { notation: "compact", maximumSignificantDigits: 3 });
}

// Filters and commands ----------------------------------------------------------------------------

for (const form of document.querySelectorAll("form.filter")) {
  const rows = [...form.parentElement.querySelectorAll("tbody tr")];
  const apply = () => {
    const wanted = [...form.elements].filter((field) => field.name && field.value);
    for (const row of rows) row.hidden = wanted.some((f) => row.dataset[f.name] !== f.value);
    const shown = rows.filter((row) => !row.hidden).length;
    form.querySelector("output").textContent = `${shown} of ${rows.length} claims`;
  };
  form.hidden = false;
  form.addEventListener("change", apply);
  apply(); // a page that is loaded again may keep its choices
}

for (const command of document.querySelectorAll("pre.command")) {
  const code = command.querySelector("code");
  const button = element("button", { type: "button" }, "Copy");
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(code); // for Ctrl-C, where the clipboard is closed to us
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Selected";
    }
  });
  command.append(button);
}

// Charts ------------------------------------------------------------------------------------------

/** From numbers to pixels between two ends, with some round numbers to name. */
function scale(numbers, from, to, logarithmic) {
  const level = logarithmic ? Math.log10 : (x) => x;
  let [low, high] = [level(Math.min(...numbers)), level(Math.max(...numbers))];
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  const rough = (high - low) / 5;
  const ten = 10 ** Math.floor(Math.log10(rough));
  let step = ten * [1, 2, 5, 10].find((factor) => factor * ten >= rough);
  if (logarithmic) step = Math.max(1, Math.round(step));
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i += 1)
    ticks.push(logarithmic ? 10 ** (i * step) : Number((i * step).toPrecision(12)));
  return { place: (x) => from + ((level(x) - low) / (high - low)) * (to - from), ticks };
}

/** The stretches of indices at which there are numbers: gaps stay gaps. */
function stretches(numbers) {
  const found = [];
  numbers.forEach((x, i) => {
    if (!isNumber(x)) return;
    if (i && isNumber(numbers[i - 1])) found.at(-1).push(i);
    else found.push([i]);
  });
  return found;
}

/**
 * Lines with bands.
 * series: [{colour, faint, x, mean, low, high}], null where there is no number.
 * labels: {x, alt, ticks}; ticks are the words of an axis without numbers. mark: an x to point out.
 */
function chart(series, labels, mark) {
  const [width, height, left, right, top, bottom] = [440, 250, 56, 20, 10, 38];
  const xs = series.flatMap((s) => s.x).sort((a, b) => a - b);
  const ys = series.flatMap((s) => [...s.mean, ...s.low, ...s.high]).filter(isNumber);
  if (!ys.length) return element("p", { class: "note" }, "No numbers to draw.");
  const uneven = xs[0] > 0 && xs[xs.length >> 1] / xs.at(-1) < 0.2; // most points early
  const steep = Math.min(...ys) > 0 && Math.max(...ys) / Math.min(...ys) > LOGARITHMIC;
  const across = scale(xs, left, width - right, uneven);
  const up = scale(ys, height - bottom, top, steep);

  const view = `0 0 ${width} ${height}`;
  const svg = element("svg", { viewBox: view, role: "img", "aria-label": labels.alt });
  const line = (x1, y1, x2, y2, name) =>
    svg.append(element("line", { x1, y1, x2, y2, class: name }));
  const text = (x, y, anchor, words) =>
    svg.append(element("text", { x, y, "text-anchor": anchor }, words));
  for (const tick of up.ticks) {
    line(left, up.place(tick), width - right, up.place(tick), "rule");
    text(left - 6, up.place(tick) + 4, "end", short(tick));
  }
  for (const tick of across.ticks) {
    const words = labels.ticks ? (labels.ticks[tick] ?? "") : short(tick);
    text(across.place(tick), height - bottom + 16, "middle", words);
  }
  text((left + width - right) / 2, height - 4, "middle", labels.x);
  if (mark !== undefined)
    line(across.place(mark), top, across.place(mark), height - bottom, "mark");

  for (const { colour, faint, x, mean, low, high } of series) {
    const path = (ends, places) =>
      places.map((i) => `${across.place(x[i]).toFixed(1)},${up.place(ends[i]).toFixed(1)}`);
    const group = element("g", { style: `--colour:${colour}`, class: faint ? "faint" : "" });
    for (const places of stretches(mean)) {
      const banded = places.filter((i) => isNumber(low[i]) && isNumber(high[i]));
      const outline = [...path(high, banded), ...path(low, [...banded].reverse())];
      if (banded.length > 1)
        group.append(element("path", { class: "band", d: `M${outline.join("L")}Z` }));
      const points = path(mean, places);
      const [cx, cy] = points[0].split(",");
      if (points.length > 1)
        group.append(element("path", { class: "line", d: `M${points.join("L")}` }));
      else group.append(element("circle", { cx, cy, r: 2.5 }));
    }
    svg.append(group);
  }
  return svg;
}

// Grids -------------------------------------------------------------------------------------------

/** From a number to the colour of its cell, and the numbers at the ends of the ramp. */
function shading(means) {
  const sorted = means.filter(isNumber).sort((a, b) => a - b);
  // The worst cells would leave one colour for all the others.
  const [low, high] = [0.05, 0.95].map((q) => sorted[Math.round(q * (sorted.length - 1))]);
  const level = low > 0 && high / low > LOGARITHMIC ? Math.log : (x) => x;
  const shade = (x) => {
    const inside = level(Math.min(Math.max(x, low), high));
    const share = high > low ? (inside - level(low)) / (level(high) - level(low)) : 0.5;
    const i = Math.min(Math.floor(share * (RAMP.length - 1)), RAMP.length - 2);
    const rest = share * (RAMP.length - 1) - i;
    return RAMP[i].map((from, k) => Math.round(from + rest * (RAMP[i + 1][k] - from)));
  };
  return { shade, low, high };
}

/**
 * A map of any metric over any two axes, and beside it what stands behind the cell in focus.
 * A place is an object: the index on every axis.
 */
function explore(root) {
  const data = JSON.parse(root.querySelector("script").textContent);
  const axes = Object.keys(data.axes);
  const cells = new Map(data.cells.map((cell) => [cell.at.join(), cell]));
  const state = { down: data.down, across: data.across, metric: 0, curve: data.curves[0] };

  const find = (place) => cells.get(axes.map((axis) => place[axis]).join());
  const valuesAt = (place) => find(place)?.values[state.metric] ?? [null, null, 0];
  const named = (axis, i) => {
    const value = data.axes[axis][i];
    return axis === "optimizer" ? data.names[value] : value;
  };

  let focus = Object.fromEntries(axes.map((axis, i) => [axis, data.cells[0].at[i]]));
  const middle = { ...focus, optimizer: data.axes.optimizer.length - 1 };
  for (const axis of [state.down, state.across])
    if (axis !== "optimizer") middle[axis] = data.axes[axis].length >> 1;
  if (isNumber(valuesAt(middle)[0])) focus = middle;

  const controls = element("div", { class: "controls" });
  const maps = element("div", { class: "maps" });
  const detail = element("div", { class: "detail", "aria-live": "polite" });
  root.append(controls, element("div", { class: "explorer" }, maps, detail));

  /** "0.123 ± 0.004", with how many of the seeds have the number where not all do. */
  function described(place) {
    const cell = find(place);
    if (!cell) return "no run";
    const [mean, deviation, count] = valuesAt(place);
    const diverged = cell.diverged ? `, ${cell.diverged} diverged` : "";
    if (mean === null) return `none of ${cell.seeds} seeds${diverged}`;
    const words = short(mean) + (isNumber(deviation) ? ` ± ${short(deviation)}` : "");
    return count === cell.seeds ? words : `${words} (${count} of ${cell.seeds} seeds${diverged})`;
  }

  // The lists above the maps.

  function choice(title, options, chosen, act) {
    const list = element("select");
    for (const [value, words] of options) list.append(element("option", { value }, words));
    list.value = chosen;
    list.addEventListener("change", () => {
      act(list.value);
      draw(title);
    });
    controls.append(element("label", { "data-name": title }, title, list));
  }

  function drawControls() {
    controls.replaceChildren();
    const set = (name) => (value) => {
      state[name] = name === "metric" ? Number(value) : value;
    };
    if (data.metrics.length > 1)
      choice("metric", data.metrics.map((name, i) => [i, name]), state.metric, set("metric"));
    if (data.curves.length > 1)
      choice("curve", data.curves.map((name) => [name, name]), state.curve, set("curve"));
    if (axes.length > 2)
      for (const [one, other] of [["down", "across"], ["across", "down"]])
        choice(one, axes.map((axis) => [axis, axis]), state[one], (axis) => {
          if (axis === state[other]) state[other] = state[one];
          state[one] = axis;
        });
    for (const axis of axes)
      if (![state.down, state.across, "optimizer"].includes(axis))
        choice(axis, data.axes[axis].map((value, i) => [i, value]), focus[axis], (i) => {
          focus[axis] = Number(i);
        });
  }

  // The maps: one per optimizer, unless the optimizer is an axis of the only one.

  function drawMaps() {
    const lone = [state.down, state.across].includes("optimizer");
    const shown = lone ? [focus.optimizer] : [...data.axes.optimizer.keys()];
    const panels = shown.map((optimizer) =>
      data.axes[state.down].map((_, row) =>
        data.axes[state.across].map((_, column) =>
          ({ ...focus, optimizer, [state.down]: row, [state.across]: column }))));
    const metric = data.metrics[state.metric];
    const { shade, low, high } = shading(panels.flat(2).map((place) => valuesAt(place)[0]));
    const roomy = data.axes[state.across].length <= ROOMY;
    maps.replaceChildren();
    for (const panel of panels) {
      const title = lone ? metric : named("optimizer", panel[0][0].optimizer);
      const head = element("tr", {}, element("td"));
      for (const place of panel[0])
        head.append(element("th", { scope: "col" }, named(state.across, place[state.across])));
      const body = element("tbody");
      for (const row of panel) {
        const name = named(state.down, row[0][state.down]);
        const boxes = row.map((place) => box(place, shade, roomy));
        body.append(element("tr", {}, element("th", { scope: "row" }, name), ...boxes));
      }
      const kind = `map${roomy ? "" : " narrow"}${panel.length > 20 ? " long" : ""}`;
      const directions = element("small", {}, `${state.down} ↓ ${state.across} →`);
      maps.append(element("div", { class: "scroll" },
        element("table", { role: "grid", class: kind },
          element("caption", {}, title, directions), element("thead", {}, head), body)));
    }
    if (low === undefined) return;
    const colours = RAMP.map((colour) => `rgb(${colour})`);
    const style = `background:linear-gradient(90deg, ${colours})`;
    const ramp = element("span", { class: "ramp", "aria-hidden": "true", style });
    maps.append(element("p", { class: "key" }, `${metric} ${short(low)}`, ramp, short(high)));
  }

  function box(place, shade, roomy) {
    const cell = find(place);
    const [mean, , count] = valuesAt(place);
    const where = axes.map((axis) => `${axis} ${named(axis, place[axis])}`);
    const label = [...where, described(place)].join(", ");
    const made = element("td", { tabindex: -1, role: "gridcell", "aria-label": label });
    if (isNumber(mean)) {
      const colour = shade(mean);
      const bright = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] > 115;
      made.style.cssText = `background:rgb(${colour});color:${bright ? "#111" : "#fff"}`;
    }
    if (roomy && mean !== null) made.append(short(mean));
    const lost = cell ? cell.seeds - count : 0;
    if (lost) made.append(count ? element("sup", {}, `×${lost}`) : "×");
    made.classList.toggle("none", !cell);
    made.place = place;
    return made;
  }

  // Beside the maps: all optimizers at the place in focus.

  /** The curve of a place. */
  function curve(place) {
    const kept = find(place).curves;
    const [mean, low, high] = kept?.[state.curve] ?? [[], [], []];
    return { x: kept?.steps ?? [], mean, low, high };
  }

  /** Where no curves were kept: the metric along an axis, the others staying as they are. */
  function slice(place, axis, x) {
    const values = x.map((_, i) => valuesAt({ ...place, [axis]: i }));
    const ends = (sign) =>
      values.map(([mean, std]) => (isNumber(mean) && isNumber(std) ? mean + sign * std : null));
    return { x, mean: values.map(([mean]) => mean), low: ends(-1), high: ends(1) };
  }

  function drawDetail() {
    const metric = data.metrics[state.metric];
    const kept = data.curves.length > 0;
    const axis = state.down === "optimizer" ? state.across : state.down;
    const numbers = data.axes[axis].map(Number);
    const words = numbers.some(Number.isNaN);
    const x = words ? [...numbers.keys()] : numbers;
    const list = element("ul", { class: "rivals" });
    const series = [];
    data.axes.optimizer.forEach((optimizer, i) => {
      const place = { ...focus, optimizer: i };
      if (!find(place)) return;
      const [colour, faint] = [data.colours[optimizer], i !== focus.optimizer];
      const name = data.names[optimizer];
      series.push({ name, colour, faint, ...(kept ? curve(place) : slice(place, axis, x)) });
      const item = { style: `--colour:${colour}`, class: faint ? "" : "chosen" };
      list.append(element("li", item, element("b", {}, name), ` ${described(place)}`));
    });
    series.sort((a, b) => b.faint - a.faint); // the chosen one on top
    const drawn = kept ? `${state.curve} against step` : `${metric} against ${axis}`;
    const ends = series.map(({ name, mean }) =>
      `${name} ends at ${short(mean.findLast(isNumber) ?? "no number")}`);
    const labels = { x: kept ? "step" : axis, alt: `${drawn}. ${ends.join(", ")}.` };
    if (!kept && words) labels.ticks = data.axes[axis];
    const where = axes.filter((name) => name !== "optimizer");
    detail.replaceChildren(
      element("h3", {}, where.map((name) => `${name} ${named(name, focus[name])}`).join(", ")),
      element("p", { class: "axis" }, metric),
      list,
      element("p", { class: "axis" }, kept ? state.curve : ""),
      chart(series, labels, kept ? undefined : x[focus[axis]]),
      element("p", { class: "note" },
        kept ? "Mean and range over the seeds." : "Mean ± standard deviation over the seeds."),
    );
  }

  // Pointer and keyboard.

  const boxOf = (event) => event.target.closest("tbody td");

  function choose(target, held) {
    const before = maps.querySelector(".here");
    before?.classList.remove("here");
    before?.setAttribute("tabindex", -1);
    target.classList.add("here");
    target.tabIndex = 0; // Tab comes by once; the arrow keys do the rest
    focus = { ...target.place };
    if (held) target.focus();
    drawDetail();
  }

  function move(event) {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const target = boxOf(event);
    if (!target || !(event.key in steps)) return;
    event.preventDefault();
    // Rows run on through all maps: right of the last column is the next optimizer's first.
    const bodies = [...maps.querySelectorAll("tbody")];
    const rows = [...bodies[0].rows].map((_, i) =>
      bodies.flatMap((body) => [...body.rows[i].cells].slice(1)));
    const row = rows.findIndex((boxes) => boxes.includes(target));
    const [down, right] = steps[event.key];
    const next = rows[row + down]?.[rows[row].indexOf(target) + right];
    if (next) choose(next, true);
  }

  function draw(changed) {
    drawControls();
    drawMaps();
    const boxes = [...maps.querySelectorAll("tbody td")];
    choose(boxes.find(({ place }) => axes.every((axis) => place[axis] === focus[axis])));
    controls.querySelector(`[data-name="${changed}"] select`)?.focus(); // it was drawn anew
  }

  const at = (held) => (event) => boxOf(event) && choose(boxOf(event), held);
  maps.addEventListener("pointerover", at(false));
  maps.addEventListener("focusin", at(false));
  maps.addEventListener("click", at(true));
  maps.addEventListener("keydown", move);
  root.hidden = false;
  draw();
}

document.querySelectorAll(".grid").forEach(explore);
