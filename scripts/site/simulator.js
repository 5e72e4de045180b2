// Three optimizers on the noisy Rosenbrock function: the rules of laprop/functional.py and the task
// of experiments/rosenbrock.py in plain JavaScript, and the picture of them that simulator.html
// frames. The first part knows nothing of a page; tests/test_simulator.py compares it with Python.
"use strict";

const Rosenbrock = (() => {
  const RULES = { adam: "Adam", amsgrad: "AMSGrad", laprop: "LaProp" };
  const ARRIVED = 0.1; // a loss without noise below this counts as convergence, as in the task
  const EPSILON = 1e-8; // the paper's for every optimizer (C.2)
  const VIEW = { left: -0.7, right: 1.5, bottom: -0.5, top: 1.4 };
  const SMALLEST = Math.sqrt(2.2250738585072014e-308); // of a root, as in Python

  const loss = (x, y) => (1 - x) ** 2 + 100 * (y - x * x) ** 2;

  function gradient(x, y) {
    const valley = 200 * (y - x * x);
    return [-2 * (1 - x) - 2 * x * valley, valley];
  }

  /** What is subtracted from one coordinate whose gradient is g; the state is brought up to date. */
  function move(rule, g, state, { lr, mu, nu, epsilon }) {
    state.n = state.n * nu + g * g * (1 - nu);
    state.largest = rule === "amsgrad" ? Math.max(state.largest, state.n) : state.n;
    state.nWeight = state.nWeight * nu + (1 - nu);
    const root = Math.max(Math.sqrt(state.largest / state.nWeight) + epsilon, SMALLEST);
    state.m = state.m * mu + (rule === "laprop" ? g / root : g) * (1 - mu);
    state.mWeight = state.mWeight * mu + (1 - mu);
    const step = state.m * (lr / state.mWeight);
    return rule === "laprop" ? step : step / root;
  }

  /**
   * The way of a rule from (0, 0).
   *
   * settings: lr, mu, nu, epsilon and sigma; the gradient is taken at theta plus sigma * noise.
   * noise: x and y in turn, in (-1, 1), two numbers for each update.
   * Returns x and y in turn, the start first.
   */
  function path(rule, settings, noise) {
    const way = new Float64Array(noise.length + 2);
    const states = [0, 1].map(() => ({ m: 0, n: 0, largest: 0, mWeight: 0, nWeight: 0 }));
    for (let i = 0; i < noise.length; i += 2) {
      const [x, y] = [way[i], way[i + 1]];
      const g = gradient(x + noise[i] * settings.sigma, y + noise[i + 1] * settings.sigma);
      way[i + 2] = x - move(rule, g[0], states[0], settings);
      way[i + 3] = y - move(rule, g[1], states[1], settings);
    }
    return way;
  }

  /** Uniform numbers in (-1, 1), the same ones for the same seed (mulberry32). */
  function uniform(seed, count) {
    let state = seed >>> 0;
    return Float64Array.from({ length: count }, () => {
      state = (state + 0x6d2b79f5) | 0;
      let t = Math.imul(state ^ (state >>> 15), state | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return 2 * (((t ^ (t >>> 14)) >>> 0) / 2 ** 32) - 1;
    });
  }

  const seen = (x, y) => x > VIEW.left && x < VIEW.right && y > VIEW.bottom && y < VIEW.top;

  /** The first update at which a way arrived, and at which it was outside the picture; or null. */
  function events(way) {
    const first = (holds) => {
      for (let i = 2; i < way.length; i += 2) if (holds(way[i], way[i + 1])) return i / 2;
      return null;
    };
    return {
      arrived: first((x, y) => loss(x, y) < ARRIVED),
      left: first((x, y) => !seen(x, y)),
    };
  }

  const updates = (count) => `${count.toLocaleString("en")} update${count === 1 ? "" : "s"}`;

  /** What became of one rule by an update, in words; events as above. */
  function outcome({ arrived, left }, update) {
    const parts = [[arrived, "arrived"], [left, "left the picture"]]
      .filter(([when]) => when !== null && when <= update)
      .sort((a, b) => a[0] - b[0])
      .map(([when, what]) => `${what} after ${updates(when)}`);
    return parts.join(" and ") || `is on its way after ${updates(update)}`;
  }

  return { RULES, ARRIVED, EPSILON, VIEW, path, uniform, events, outcome };
})();

// The picture -------------------------------------------------------------------------------------

for (const root of document.querySelectorAll(".simulator")) {
  const { RULES, ARRIVED, EPSILON, VIEW, path, uniform, events, outcome } = Rosenbrock;
  const UPDATES = 2000;
  const STEP = 100; // updates at a press, for a reader who wants no motion
  const LEVELS = [300, 100, 30, 10, 3, 1, 0.3];
  const HASH = "rosenbrock";
  const sliders = [...root.querySelectorAll("[data-values]")];
  const [time, speed, sentence] = ["time", "speed", "sentence"].map((n) => root.querySelector(`.${n}`));
  const [play, renew, reset] = ["play", "renew", "reset"].map((n) => root.querySelector(`.${n}`));
  const canvas = root.querySelector("canvas");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let seed = 1;
  const [ways, found] = [{}, {}]; // rule -> its path, and the events on it
  let position = UPDATES; // updates shown, with the fraction that the film has got to
  let frame = null; // of the film while it runs

  const choices = (slider) => slider.dataset.values.split(" ");
  const chosen = (slider) => choices(slider)[slider.value];

  function choose(slider, value) {
    slider.value = choices(slider).indexOf(value);
    slider.setAttribute("aria-valuetext", value);
    slider.parentElement.querySelector("output").textContent = value;
  }

  // The address: #rosenbrock=mu,nu,sigma,lr,noise beside what other parts of the page keep there.

  function address() {
    const hash = location.hash.slice(1);
    return new URLSearchParams(hash.includes("=") ? hash : ""); // without "=" it is an anchor
  }

  function remember() {
    const kept = address();
    kept.set(HASH, [...sliders.map(chosen), seed].join());
    try {
      history.replaceState(null, "", `#${String(kept).replaceAll("%2C", ",")}`);
    } catch {
      // A page in a frame may not change its address; the simulator works without it.
    }
  }

  /** The settings of the address, or the ones that the page begins with. */
  function recall() {
    const values = (address().get(HASH) ?? "").split(",");
    const known = sliders.every((slider, i) => choices(slider).includes(values[i]));
    sliders.forEach((slider, i) => choose(slider, known ? values[i] : slider.dataset.begin));
    seed = known ? Number(values[sliders.length]) >>> 0 || 1 : 1;
    compute();
  }

  function compute() {
    const settings = Object.fromEntries(sliders.map((s) => [s.name, Number(chosen(s))]));
    const noise = uniform(seed, 2 * UPDATES);
    for (const rule in RULES) {
      ways[rule] = path(rule, { ...settings, epsilon: EPSILON }, noise);
      found[rule] = events(ways[rule]);
    }
    show(frame === null ? UPDATES : 0); // a film begins again
  }

  // Drawing

  function show(where) {
    position = where;
    const update = Math.floor(where);
    time.value = update;
    time.nextElementSibling.textContent = update.toLocaleString("en");
    const words = Object.keys(RULES).map((rule) => `${RULES[rule]} ${outcome(found[rule], update)}`);
    const text = `${words.slice(0, -1).join("; ")}; ${words.at(-1)}.`;
    // While the film runs, "on its way after ..." would change with every frame.
    const shown = frame === null ? text : text.replace(/( is on its way) after [\d,]+ updates?/g, "$1");
    if (sentence.textContent !== shown) sentence.textContent = shown;
    draw();
  }

  function draw() {
    const { clientWidth: width, clientHeight: height } = canvas;
    if (!width) return;
    const ratio = devicePixelRatio || 1;
    [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const style = getComputedStyle(root);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const across = (x) => ((x - VIEW.left) / (VIEW.right - VIEW.left)) * width;
    const up = (y) => height - ((y - VIEW.bottom) / (VIEW.top - VIEW.bottom)) * height;

    // Where the loss is c: x = 1 + sqrt(c) cos(a), y = x^2 + sqrt(c) / 10 sin(a).
    const contour = (c) => {
      context.beginPath();
      for (let a = 0; a < 2 * Math.PI; a += 0.005) {
        const x = 1 + Math.sqrt(c) * Math.cos(a);
        context.lineTo(across(x), up(x * x + (Math.sqrt(c) / 10) * Math.sin(a)));
      }
      context.closePath();
    };
    context.lineWidth = 1;
    context.strokeStyle = colour("contour");
    context.fillStyle = colour("valley");
    for (const level of LEVELS) {
      contour(level);
      context.fill();
      context.stroke();
    }
    contour(ARRIVED);
    context.fillStyle = colour("target");
    context.fill();

    const last = 2 * Math.floor(position);
    const drawn = Object.keys(RULES).filter((rule) => root.querySelector(`[value=${rule}]`).checked);
    const near = (z) => Math.max(-1e3, Math.min(1e3, z)); // a leap may be longer than a canvas counts
    context.lineJoin = "round";
    context.lineWidth = 1.4;
    for (const rule of drawn) {
      context.strokeStyle = colour(rule);
      context.beginPath();
      for (let i = 0; i <= last; i += 2) {
        context.lineTo(across(near(ways[rule][i])), up(near(ways[rule][i + 1])));
      }
      context.stroke();
    }
    context.strokeStyle = colour("ground"); // a rim lifts the dot off the lines
    for (const rule of drawn) {
      context.fillStyle = colour(rule);
      context.beginPath();
      context.arc(across(near(ways[rule][last])), up(near(ways[rule][last + 1])), 5, 0, 2 * Math.PI);
      context.fill();
      context.stroke();
    }
    context.fillStyle = colour("words");
    context.font = `12px ${getComputedStyle(canvas).fontFamily}`;
    for (const [x, y, text, below] of [[0, 0, "start", 16], [1, 1, "minimum", -8]]) {
      context.fillRect(across(x) - 4, up(y) - 0.75, 8, 1.5);
      context.fillRect(across(x) - 0.75, up(y) - 4, 1.5, 8);
      context.fillText(text, across(x) + 8, up(y) + below);
    }
  }

  // The film

  function pause() {
    cancelAnimationFrame(frame);
    frame = null;
    play.textContent = calm.matches ? `Next ${STEP} updates` : "Play";
    show(position);
  }

  function run() {
    const begin = position < UPDATES ? position : 0;
    if (calm.matches) {
      show(Math.min(begin + STEP, UPDATES));
      return;
    }
    let before = null;
    const next = (now) => {
      const seconds = Math.min(now - (before ?? now), 100) / 1000; // 100: after a hidden tab
      before = now;
      frame = requestAnimationFrame(next);
      show(Math.min(position + seconds * speed.value, UPDATES));
      if (position === UPDATES) pause();
    };
    frame = requestAnimationFrame(next);
    play.textContent = "Pause";
    show(begin);
  }

  for (const slider of sliders) {
    slider.addEventListener("input", () => {
      choose(slider, chosen(slider));
      remember();
      compute();
    });
  }
  time.max = UPDATES;
  time.addEventListener("input", () => show(Number(time.value)));
  play.addEventListener("click", () => (frame === null ? run() : pause()));
  renew.addEventListener("click", () => {
    seed = (seed % 9999) + 1;
    remember();
    compute();
  });
  reset.addEventListener("click", () => {
    seed = 1;
    for (const slider of sliders) choose(slider, slider.dataset.begin);
    pause();
    remember();
    compute();
  });
  for (const box of root.querySelectorAll("[type=checkbox]")) box.addEventListener("change", draw);
  addEventListener("hashchange", () => address().has(HASH) && recall());
  calm.addEventListener("change", pause);
  dark.addEventListener("change", draw);
  root.querySelector(".board").hidden = false;
  recall();
  pause();
  new ResizeObserver(draw).observe(canvas);
}
