"use strict";
// The browser of samples, and what a heatmap says on a hover. Text of the runs goes into the page
// as text only (textContent), inside <bdi>; pictures are data: addresses of the strips' own bytes.
(() => {
  const PAGE = 20;
  const byId = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(byId(id).textContent);
  const config = read("config");
  const GLYPHS = { right: "✓", wrong: "✗", "no answer": "–", failed: "!", scored: "•" };

  // Elements ------------------------------------------------------------------------------------

  const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\ud800-\udfff]/gu;
  const visible = (text) => String(text).replace(/\r\n/g, "\n").replace(CONTROL, (sign) => {
    const code = sign.codePointAt(0);
    return code < 32 ? String.fromCodePoint(0x2400 + code) : code === 127 ? "\u2421" : "\ufffd";
  });

  /** An element; children that are no elements become text. */
  function make(name, attributes, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      element.setAttribute(key, value === true ? "" : String(value));
    }
    for (const child of children) {
      if (child === null || child === undefined) continue;
      element.append(child instanceof Node ? child : visible(child));
    }
    return element;
  }
  const isolated = (text) => make("bdi", { dir: "auto" }, text);
  const number = (value) => value.toLocaleString("en-US");

  function letter(place) {
    return make("span", { class: `letter run-${place % 8}`, title: visible(config.runs[place].label) },
      config.runs[place].letter);
  }
  function verdict(answer, place, long) {
    const box = make("span", { class: `verdict ${answer.s.replace(" ", "-")}` },
      config.runs.length > 1 && !long ? config.runs[place].letter + " " : null,
      make("span", { "aria-hidden": "true" }, GLYPHS[answer.s] || "?"),
      make("span", { class: long ? null : "unseen" }, long ? " " + answer.s : answer.s));
    if (answer.x !== undefined && answer.s !== "failed" && answer.s !== "no answer") {
      box.append(` ${answer.x}`);
    }
    return box;
  }

  // State: what the address says behind the # ---------------------------------------------------

  const KEYS = ["task", "run", "outcome", "first", "second", "relation", "q"];
  let state = {};
  let page = 0;
  let tasks = null;
  let rows = [];
  let found = [];
  let opened = "";

  function parseHash() {
    const hash = location.hash.slice(1);
    if (!hash.includes("=")) return null;
    const given = {};
    for (const part of hash.split("&")) {
      const [key, ...rest] = part.split("=");
      try {
        given[decodeURIComponent(key)] = decodeURIComponent(rest.join("="));
      } catch {
        return null;
      }
    }
    return given;
  }
  function writeHash() {
    const parts = [];
    for (const [key, value] of Object.entries(state)) {
      if (value !== "") parts.push(`${encodeURIComponent(key)}=${encodeURIComponent(value)}`);
    }
    if (page) parts.push(`page=${page + 1}`);
    if (opened) parts.push(`sample=${encodeURIComponent(opened)}`);
    try {
      history.replaceState(null, "", parts.length ? "#" + parts.join("&") : "#samples");
    } catch {
      // Some readers of local files allow no change of the address; filters work all the same.
    }
  }

  // Data ----------------------------------------------------------------------------------------

  function load() {
    if (tasks) return;
    tasks = [];
    for (let place = 0; byId(`task-${place}`); place++) {
      const task = read(`task-${place}`);
      tasks.push(task);
      for (const row of task.rows) {
        row.task = task;
        rows.push(row);
      }
      byId(`task-${place}`).textContent = "";
    }
    buildFilters();
  }
  const nameOf = (row) => `${row.task.name}/${row.k}`;
  function textOf(row) {
    if (row.text === undefined) {
      const parts = [row.i, row.v, row.q, row.a, ...(row.o || []), ...(row.m || [])];
      for (const answer of Object.values(row.r)) parts.push(answer.g, answer.w || "");
      row.text = parts.join("\n").toLowerCase();
    }
    return row.text;
  }

  // Filters -------------------------------------------------------------------------------------

  function field(label, control, wide) {
    return make("label", { class: wide ? "wide" : null }, label, control);
  }
  function select(key, choices) {
    const control = make("select", { name: key });
    for (const [value, text] of choices) {
      const option = make("option", null, text);
      option.value = value;
      control.append(option);
    }
    control.value = state[key] || "";
    if (control.selectedIndex < 0) control.selectedIndex = 0;
    control.addEventListener("change", () => change(key, control.value));
    return control;
  }
  function buildFilters() {
    const form = byId("filters");
    const parts = [];
    const search = make("input", { type: "search", name: "q", autocomplete: "off",
      placeholder: "question, answer, id, video" });
    search.value = state.q || "";
    let waiting = 0;
    search.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => change("q", search.value), 150);
    });
    parts.push(field("Search", search, true));
    if (tasks.length > 1) {
      parts.push(field("Task", select("task", [["", "all tasks"],
        ...tasks.map((task) => [task.name, visible(task.name)])])));
    }
    const used = new Set(rows.flatMap((row) => Object.values(row.r).map((answer) => answer.s)));
    const outcomes = config.outcomes.filter((outcome) => used.has(outcome));
    parts.push(field("Outcome", select("outcome", [["", "any"], ...outcomes.map((o) => [o, o])])));
    if (config.runs.length > 1) {
      parts.push(field("of run", select("run", [["", "any run"], ...runChoices()])));
    }
    const task = tasks.length === 1 ? tasks[0] : tasks.find((each) => each.name === state.task);
    for (const [place, name] of (task ? task.categories : []).entries()) {
      const values = [...new Set(task.rows.map((row) => row.c[place]))];
      const known = values.filter((value) => value !== undefined);
      if (known.length > 1) {
        parts.push(field(name.replaceAll("_", " "), select(`c.${name}`, [["", "all"],
          ...known.map((value) => [value, visible(value)])])));
      }
    }
    if (config.runs.length > 1) {
      const pair = make("fieldset", { "aria-label": "Two runs" });
      if (config.runs.length > 2) {
        pair.append(field("Compare", select("first", runChoices())),
          field("with", select("second", runChoices(1))));
      }
      const [a, b] = pairOf().map((place) => config.runs[place].letter);
      pair.append(field("Disagreement", select("relation", [["", "–"],
        ["differ", `${a} and ${b}: one is right, the other not`], ["first", `only ${a} is right`],
        ["second", `only ${b} is right`], ["answers", `${a} and ${b} answer differently`],
        ["neither", `neither ${a} nor ${b} is right`]])));
      parts.push(pair);
    }
    const reset = make("button", { type: "button" }, "Show all");
    reset.addEventListener("click", () => {
      state = {};
      opened = "";
      page = 0;
      buildFilters();
      apply();
    });
    parts.push(reset);
    form.replaceChildren(...parts);
    form.onsubmit = (event) => event.preventDefault();
  }
  function runChoices(start) {
    const choices = config.runs.map((run, place) =>
      [String(place), visible(`${run.letter} ${run.label}`)]);
    return start ? [...choices.slice(start), ...choices.slice(0, start)] : choices;
  }
  function pairOf() {
    const known = (value, other) => {
      const place = value === undefined || value === "" ? other : Number(value);
      return Number.isInteger(place) && place >= 0 && place < config.runs.length ? place : other;
    };
    return [known(state.first, 0), known(state.second, Math.min(1, config.runs.length - 1))];
  }
  function change(key, value) {
    state[key] = value;
    if (key === "task") {
      for (const name of Object.keys(state)) if (name.startsWith("c.")) delete state[name];
    }
    page = 0;
    opened = "";
    const focused = document.activeElement && document.activeElement.name;
    if (key !== "q") buildFilters();
    apply();
    const control = focused && byId("filters").elements[focused];
    if (control && key !== "q") control.focus();
  }
  const isRight = (answer) => answer.s === "right" || (answer.s === "scored" && answer.x > 0);

  function fits(row) {
    if (state.task && row.task.name !== state.task) return false;
    for (const [key, value] of Object.entries(state)) {
      if (!key.startsWith("c.") || value === "") continue;
      const place = row.task.categories.indexOf(key.slice(2));
      if (place < 0 || row.c[place] !== value) return false;
    }
    if (state.run || state.outcome) {
      const answers = state.run ? [row.r[state.run]] : Object.values(row.r);
      if (!answers.some((each) => each && (!state.outcome || each.s === state.outcome))) return false;
    }
    if (state.relation) {
      const [a, b] = pairOf().map((place) => row.r[place]);
      if (!a || !b) return false;
      const [rightA, rightB] = [isRight(a), isRight(b)];
      if (state.relation === "differ" && rightA === rightB) return false;
      if (state.relation === "first" && !(rightA && !rightB)) return false;
      if (state.relation === "second" && !(rightB && !rightA)) return false;
      if (state.relation === "neither" && (rightA || rightB)) return false;
      if (state.relation === "answers") {
        const same = a.l !== undefined && b.l !== undefined ? a.l === b.l : a.g === b.g;
        if (same) return false;
      }
    }
    if (state.q) {
      const text = textOf(row);
      for (const word of state.q.toLowerCase().split(/\s+/)) {
        if (word && !text.includes(word)) return false;
      }
    }
    return true;
  }

  // The list ------------------------------------------------------------------------------------

  function apply(scroll, quiet) {
    found = rows.filter(fits);
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(Math.max(0, page), pages - 1);
    byId("count").textContent = found.length === rows.length
      ? `${number(rows.length)} question${rows.length === 1 ? "" : "s"}`
      : `${number(found.length)} of ${number(rows.length)} questions`;
    const items = found.slice(page * PAGE, (page + 1) * PAGE).map(item);
    byId("list").replaceChildren(...items);
    byId("list").setAttribute("start", page * PAGE + 1);
    pager(pages);
    if (!quiet) writeHash();
    if (scroll) {
      const open = byId("list").querySelector("[aria-expanded=true]");
      const target = open || byId("samples");
      target.scrollIntoView({ block: "start", behavior: "instant" });
      if (open) open.focus({ preventScroll: true });
    }
  }
  function pager(pages) {
    const go = (to) => {
      page = to;
      opened = "";
      apply(true);
    };
    const back = make("button", { type: "button" }, "Previous");
    const next = make("button", { type: "button" }, "Next");
    back.disabled = page === 0;
    next.disabled = page >= pages - 1;
    back.addEventListener("click", () => go(page - 1));
    next.addEventListener("click", () => go(page + 1));
    byId("pager").replaceChildren(...(pages > 1
      ? [back, make("span", null, `Page ${number(page + 1)} of ${number(pages)}`), next] : []));
  }
  function item(row) {
    const name = nameOf(row);
    const verdicts = make("span", { class: "verdicts" });
    for (const place of row.task.runs) if (row.r[place]) verdicts.append(verdict(row.r[place], place));
    const meta = make("span", { class: "meta" }, isolated(row.i));
    if (tasks.length > 1) meta.append(" · ", isolated(row.task.name));
    if (row.v && row.v !== row.i && !Object.values(row.c).includes(row.v)) meta.append(" · ", isolated(row.v));
    for (const [place, value] of Object.entries(row.c)) {
      const bare = /^[\d.,]+( %)?$/.test(value);  // a number says nothing without its name
      meta.append(" · ", isolated(bare ? `${row.task.categories[place]} ${value}` : value));
    }
    const button = make("button", { type: "button", class: "row", "aria-expanded": "false" },
      verdicts, make("span", { class: "text" }, isolated(row.q || row.i)), meta);
    const entry = make("li", null, button);
    const show = (open) => {
      button.setAttribute("aria-expanded", String(open));
      const detail = entry.querySelector(".detail");
      if (open && !detail) entry.append(details(row));
      if (!open && detail) detail.remove();
    };
    if (name === opened) show(true);
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") !== "true";
      show(open);
      if (open) opened = name;
      else if (opened === name) opened = "";
      writeHash();
    });
    return entry;
  }

  // One sample ----------------------------------------------------------------------------------

  function details(row) {
    const box = make("div", { class: "detail" });
    if (row.m) box.append(make("p", { class: "facts" }, "Media: ", isolated(row.m.join(", "))));
    box.append(make("p", { class: "question" }, isolated(row.q)));
    if (row.o) box.append(optionList(row));
    else if (row.a !== "") {
      box.append(make("p", { class: "answer" }, make("strong", null, "Right answer: "),
        isolated(row.a)));
    }
    let before = "";
    for (const place of row.task.runs) {
      if (!row.r[place]) continue;
      const part = perRun(row, place);
      const strip = String(row.r[place].z);
      if (strip !== "undefined" && strip === before) {
        part.append(make("p", { class: "sub" }, "The same frames as above."));
      } else {
        const frames = film(row, row.r[place]);
        if (frames) part.append(frames);
      }
      before = strip;
      box.append(part);
    }
    if (row.p) {
      box.append(make("details", null, make("summary", null, "The prompt as it was sent"),
        make("p", { class: "said" }, isolated(row.p))));
    }
    box.append(make("p", { class: "links" },
      make("a", { href: `#sample=${encodeURIComponent(nameOf(row))}` }, "Link to this sample")));
    return box;
  }
  function optionList(row) {
    const list = make("ol", { class: "options", "aria-label": "Options" });
    row.o.forEach((option, place) => {
      const key = String.fromCharCode(65 + place);
      const correct = row.a === key;
      const chosen = make("span", { class: "chosen" });
      for (const run of row.task.runs) {
        if (row.r[run] && row.r[run].l === key) chosen.append(" ", letter(run));
      }
      if (chosen.childNodes.length) chosen.prepend("chosen by");
      const text = option.replace(new RegExp(`^\\(?${key}[.):]\\s*`), "");
      list.append(make("li", { class: correct ? "correct" : null },
        make("span", { class: "key-letter" }, key),
        make("span", null, isolated(text), correct ? " ✓ right answer" : null), chosen));
    });
    return list;
  }
  function perRun(row, place) {
    const answer = row.r[place];
    const heading = make("h4", null);
    heading.append(letter(place), isolated(config.runs[place].label), verdict(answer, place, true));
    const box = make("div", { class: "per-run" }, heading);
    if (answer.w) {
      box.append(make("p", { class: "said" }, make("strong", null, "Reason: "), isolated(answer.w)));
    }
    if (answer.s !== "failed") {
      box.append(answer.g.trim() === ""
        ? make("p", { class: "said empty" }, "The model said nothing.")
        : make("p", { class: "said" }, isolated(answer.g)));
    }
    if (answer.p) box.append(probabilities(row, answer, place));
    const facts = [];
    if (answer.l !== undefined && answer.l !== null) facts.push(`read as ${answer.l}`);
    else if (answer.s === "no answer" && answer.g.trim()) facts.push("no option can be read from it");
    if (answer.y !== undefined) facts.push(`probability of the right answer ${answer.y}`);
    if (answer.n !== undefined) {
      const asked = answer.f !== undefined && answer.f !== answer.n ? ` of ${number(answer.f)} asked` : "";
      facts.push(`${number(answer.n)} frame${answer.n === 1 ? "" : "s"} seen${asked}`);
    }
    if (answer.t !== undefined) facts.push(`${number(answer.t)} prompt tokens`);
    if (answer.d !== undefined) facts.push(`${answer.d} s`);
    if (facts.length) box.append(make("p", { class: "facts" }, facts.join(" · ")));
    return box;
  }
  function probabilities(row, answer, place) {
    const body = make("tbody");
    for (const [key, share] of Object.entries(answer.p)) {
      const bar = make("span");
      bar.style.width = `${100 * share}%`;
      body.append(make("tr", null, make("th", { scope: "row" }, key, row.a === key ? " ✓" : ""),
        make("td", { class: "bars" }, make("div", { class: `meter run-${place % 8}` }, bar)),
        make("td", { class: "number" }, `${(100 * share).toFixed(1)} %`)));
    }
    return make("table", { class: "probs" },
      make("caption", { class: "unseen" }, "Probability of each option"), body);
  }
  function film(row, answer) {
    if (answer.z === undefined) {
      if (answer.u === undefined) return null;
      return make("p", { class: "sub" }, "No film strip: ", isolated(row.task.reasons[answer.u]));
    }
    const strip = read(`strip-${answer.z}`);
    const count = strip.labels.length;
    const list = make("ol", { class: "frames", "aria-label": "Film strip" });
    const address = `url("data:${strip.mime};base64,${strip.data}")`;
    strip.labels.forEach((label, place) => {
      const isNeedle = place === strip.needle;
      const what = isNeedle ? "The needle" : `Frame at ${label}`;
      const picture = make("span", { class: "picture", role: "img", "aria-label": visible(what) });
      picture.style.aspectRatio = `${strip.width} / ${strip.height}`;
      picture.style.backgroundImage = address;
      picture.style.backgroundSize = `${100 * count}% 100%`;
      picture.style.backgroundPosition = `${count > 1 ? (100 * place) / (count - 1) : 0}% 0`;
      list.append(make("li", { class: isNeedle ? "needle" : null }, picture,
        make("span", { "aria-hidden": "true" }, label)));
    });
    const seen = count < strip.seen
      ? `${number(count)} of the ${number(strip.seen)} frames the model saw, evenly chosen`
      : count === 1 ? "What the model saw" : `The ${number(count)} frames the model saw`;
    return make("figure", { class: "film" }, list, make("figcaption", null,
      seen + (strip.needle !== null ? "; the needle is marked." : ".")));
  }

  // Heatmaps ------------------------------------------------------------------------------------

  for (const grid of document.querySelectorAll(".grid")) {
    const info = read(`${grid.id}-cells`);
    const out = grid.parentElement.querySelector(".cell-info");
    const cells = [...grid.querySelectorAll(".cell")];
    const tell = (cell) => {
      const { title, missed } = info[Number(cell.dataset.cell)];
      out.replaceChildren(make("strong", null, isolated(title)));
      if (missed.length) {
        out.append(". Missed: ");
        missed.slice(0, 8).forEach(([needle, answer, said], place) => {
          out.append(place ? "; " : "", isolated(needle), " (", isolated(answer), "; said ",
            isolated(said || "nothing"), ")");
        });
        if (missed.length > 8) out.append(`; and ${missed.length - 8} more`);
      }
    };
    cells.forEach((cell, place) => {
      cell.setAttribute("tabindex", place ? "-1" : "0");
      cell.addEventListener("mouseenter", () => tell(cell));
      cell.addEventListener("focus", () => tell(cell));
      const open = () => {
        const { link } = info[Number(cell.dataset.cell)];
        if (link) location.hash = link;
      };
      cell.addEventListener("click", open);
      cell.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          open();
          return;
        }
        const [x, y] = [Number(cell.dataset.x), Number(cell.dataset.y)];
        const inColumn = cells.filter((each) => Number(each.dataset.x) === x)
          .sort((a, b) => a.dataset.y - b.dataset.y);
        const inRow = cells.filter((each) => Number(each.dataset.y) === y)
          .sort((a, b) => a.dataset.x - b.dataset.x);
        const to = {
          ArrowUp: inColumn[inColumn.indexOf(cell) - 1],
          ArrowDown: inColumn[inColumn.indexOf(cell) + 1],
          ArrowLeft: inRow[inRow.indexOf(cell) - 1],
          ArrowRight: inRow[inRow.indexOf(cell) + 1],
        }[event.key];
        if (to) {
          event.preventDefault();
          for (const each of cells) each.setAttribute("tabindex", "-1");
          to.setAttribute("tabindex", "0");
          to.focus();
        }
      });
    });
  }

  // Start ---------------------------------------------------------------------------------------

  function follow() {
    const given = parseHash();
    if (!given) return false;
    load();
    state = {};
    for (const [key, value] of Object.entries(given)) {
      if (KEYS.includes(key) || key.startsWith("c.")) state[key] = value;
    }
    page = Math.max(0, (parseInt(given.page, 10) || 1) - 1);
    opened = given.sample || "";
    if (opened) {
      const row = rows.find((each) => nameOf(each) === opened);
      if (row && !fits(row)) state = {};
      const place = row ? rows.filter(fits).indexOf(row) : -1;
      if (place >= 0) page = Math.floor(place / PAGE);
    }
    buildFilters();
    apply(true);
    if (opened && !rows.some((each) => nameOf(each) === opened)) {
      byId("count").textContent = "This page has no such sample. " + byId("count").textContent;
    }
    return true;
  }
  function start() {
    if (tasks) return;
    load();
    apply(false, true);
  }
  if (byId("list")) {
    addEventListener("hashchange", follow);
    addEventListener("beforeprint", () => {
      start();
      for (const each of document.querySelectorAll("main > section:not(#made) details")) {
        if (!each.closest("#list")) each.open = true;
      }
    });
    if (!follow()) {
      const later = window.requestIdleCallback || ((run) => setTimeout(run, 50));
      later(start);
    }
  }
})();
