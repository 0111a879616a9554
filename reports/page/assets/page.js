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
  /** What became of an answer: a sign, and the option that was read or the outcome in words. */
  function verdict(answer, place, long) {
    const said = answer.l || (answer.s === "failed" || answer.s === "no answer" ? answer.s : brief(answer.g));
    const box = make("span", { class: `verdict ${answer.s.replace(" ", "-")}` },
      make("span", { "aria-hidden": "true" }, GLYPHS[answer.s] || "?"),
      make("span", { class: long ? null : "unseen" }, ` ${answer.s} `));
    if (!long) box.append(" ", isolated(said));
    if (answer.x !== undefined && answer.s !== "failed" && answer.s !== "no answer") {
      box.append(` ${answer.x}`);
    }
    return box;
  }

  // State: what the address says behind the # ---------------------------------------------------

  const KEYS = ["task", "run", "outcome", "first", "second", "relation", "q", "sort"];
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

  /** The runs that answered any of these rows, the two that are compared first. */
  function runsOf(listed) {
    const used = [...config.runs.keys()].filter((place) => listed.some((row) => row.r[place]));
    return [...new Set([...pairOf(), ...used])].filter((place) => used.includes(place));
  }
  const disagree = (row) => {
    const [a, b] = pairOf().map((place) => row.r[place]);
    return Boolean(a && b && isRight(a) !== isRight(b));
  };
  const RANKS = ["failed", "no answer", "wrong", "not scored", "scored", "right"];
  const compareText = (a, b) => a.localeCompare(b, "en", { numeric: true });
  const ORDERS = {
    id: (a, b) => compareText(a.i, b.i),
    text: (a, b) => compareText(a.q, b.q),
    answer: (a, b) => compareText(a.a, b.a),
    disagree: (a, b) => disagree(b) - disagree(a),
  };
  function order(key) {
    if (!key.startsWith("run")) return ORDERS[key];
    const place = key.slice(3);
    const rank = (row) => row.r[place] ? RANKS.indexOf(row.r[place].s) + (row.r[place].x || 0) : -1;
    return (a, b) => rank(a) - rank(b);
  }

  function fitting() {
    const [key, down] = (state.sort || "").split("-");
    const by = order(key);
    const chosen = rows.filter(fits);
    return by ? chosen.sort((a, b) => (down ? by(b, a) : by(a, b))) : chosen;
  }
  function apply(scroll, quiet) {
    found = fitting();
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(Math.max(0, page), pages - 1);
    byId("count").textContent = found.length === rows.length
      ? `${number(rows.length)} question${rows.length === 1 ? "" : "s"}`
      : `${number(found.length)} of ${number(rows.length)} questions`;
    const listed = found.slice(page * PAGE, (page + 1) * PAGE);
    const runs = runsOf(listed);
    const list = byId("list");
    list.tHead.replaceChildren(heads(runs));
    list.tBodies[0].replaceChildren(...listed.flatMap((row) => item(row, runs)));
    pager(pages);
    if (!quiet) writeHash();
    if (scroll) {
      const open = list.querySelector("[aria-expanded=true]");
      (open ? open.closest("tr") : byId("samples")).scrollIntoView({ block: "start",
        behavior: "instant" });
      if (open) open.focus({ preventScroll: true });
    }
  }
  function heads(runs) {
    const line = make("tr");
    const [sorted, down] = (state.sort || "").split("-");
    const head = (key, ...content) => {
      const button = make("button", { type: "button", title: "Sort" }, ...content,
        make("span", { "aria-hidden": "true" }, sorted === key ? (down ? " ▾" : " ▴") : ""));
      button.addEventListener("click", () => {
        change("sort", sorted !== key ? key : down ? "" : `${key}-down`);
        byId("list").tHead.querySelectorAll("button")[[...line.children].indexOf(cell)].focus();
      });
      const cell = make("th", { scope: "col",
        "aria-sort": sorted === key ? (down ? "descending" : "ascending") : null }, button);
      line.append(cell);
    };
    head("id", "Id");
    head("text", "Question");
    head("answer", "Right");
    for (const place of runs) head(`run${place}`, letter(place));
    if (runs.length > 1) head("disagree", make("span", { title: "Where the compared runs disagree" }, "≠"));
    return line;
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
  function item(row, runs) {
    const name = nameOf(row);
    const button = make("button", { type: "button", class: "row", "aria-expanded": "false" },
      isolated(row.q || row.i));
    const meta = make("span", { class: "meta" });
    const facts = tasks.length > 1 ? [row.task.name] : [];
    if (row.v && row.v !== row.i && !Object.values(row.c).includes(row.v)) facts.push(row.v);
    for (const [place, value] of Object.entries(row.c)) {
      const bare = /^[\d.,]+( %)?$/.test(value);  // a number says nothing without its name
      facts.push(bare ? `${row.task.categories[place]} ${value}` : value);
    }
    facts.forEach((fact, place) => meta.append(place ? " · " : "", isolated(fact)));
    const line = make("tr", null, make("td", { class: "id" }, isolated(row.i)),
      make("td", { class: "text" }, button, meta),
      make("td", { class: "right", "data-label": "Right" }, isolated(brief(row.a))));
    for (const place of runs) {
      const answer = row.r[place];
      line.append(answer ? make("td", { class: "answer" }, verdict(answer, place))
        : make("td", null, "–"));
    }
    if (runs.length > 1) line.append(make("td", { class: "differs" }, disagree(row) ? "≠" : ""));
    const below = make("tr", { class: "below" });
    below.hidden = true;
    const show = (open) => {
      button.setAttribute("aria-expanded", String(open));
      below.hidden = !open;
      below.replaceChildren(...(open
        ? [make("td", { colspan: line.children.length }, details(row, runs))] : []));
    };
    if (name === opened) show(true);
    line.addEventListener("click", (event) => {
      if (String(getSelection()) || event.target.closest("a")) return;
      const open = button.getAttribute("aria-expanded") !== "true";
      show(open);
      if (open) opened = name;
      else if (opened === name) opened = "";
      writeHash();
    });
    return [line, below];
  }
  const brief = (text) => (text.length > 28 ? text.slice(0, 27) + "…" : text);

  /** Open the next row that fits, or the previous one; from the open one on. */
  function step(by, wanted) {
    start();
    let place = found.findIndex((row) => nameOf(row) === opened);
    if (place < 0) place = by > 0 ? page * PAGE - 1 : page * PAGE;
    do place += by; while (found[place] && !wanted(found[place]));
    if (!found[place]) return;
    opened = nameOf(found[place]);
    page = Math.floor(place / PAGE);
    apply(true);
  }
  const KEYS_OF_LIST = {
    j: () => step(1, () => true),
    k: () => step(-1, () => true),
    d: () => step(1, disagree),
    D: () => step(-1, disagree),
    "/": () => byId("filters").elements.q.focus(),
    Escape: () => {
      opened = "";
      apply();
    },
  };
  function onKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || document.querySelector("dialog[open]")) return;
    if (event.target.closest("input, select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const act = KEYS_OF_LIST[event.key];
    if (!act) return;
    event.preventDefault();
    start();
    act();
  }

  // One sample ----------------------------------------------------------------------------------

  function details(row, runs) {
    const box = make("div", { class: "detail" });
    if (row.m) box.append(make("p", { class: "facts" }, "Media: ", isolated(row.m.join(", "))));
    box.append(make("p", { class: "question" }, isolated(row.q)));
    if (row.o) box.append(optionList(row));
    else if (row.a !== "") {
      box.append(make("p", { class: "answer" }, make("strong", null, "Right answer: "),
        isolated(row.a)));
    }
    let before = "";
    for (const place of runs) {
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
    if (answer.z === undefined) return answer.u === undefined ? null : noFilm(row.task.reasons[answer.u]);
    if (!config.live) return filmOf(row, read(`strip-${answer.z}`));
    const box = make("div", null, make("p", { class: "sub" }, "The frames are being read …"));
    fetch(`strip/${answer.z}`).then((found) => found.json()).then((strip) => {
      box.replaceChildren(typeof strip === "string" ? noFilm(strip) : filmOf(row, strip));
    }).catch((error) => box.replaceChildren(noFilm(String(error))));
    return box;
  }
  const noFilm = (why) => make("p", { class: "sub" }, "No film strip: ", isolated(why));
  function filmOf(row, strip) {
    const count = strip.labels.length;
    const list = make("ol", { class: "frames", "aria-label": "Film strip" });
    const address = `url("data:${strip.mime};base64,${strip.data}")`;
    strip.labels.forEach((label, place) => {
      const isNeedle = place === strip.needle;
      const picture = make("button", { type: "button", class: "picture",
        "aria-label": visible(`${isNeedle ? "The needle" : `Frame at ${label}`}, enlarge`) });
      picture.style.aspectRatio = `${strip.width} / ${strip.height}`;
      picture.style.backgroundImage = address;
      picture.style.backgroundSize = `${100 * count}% 100%`;
      picture.style.backgroundPosition = `${count > 1 ? (100 * place) / (count - 1) : 0}% 0`;
      picture.addEventListener("click", () => enlarge(strip, place, nameOf(row), picture));
      list.append(make("li", { class: isNeedle ? "needle" : null }, picture,
        make("span", { "aria-hidden": "true" }, label)));
    });
    const seen = count < strip.seen
      ? `${number(count)} of the ${number(strip.seen)} frames the model saw, evenly chosen`
      : count === 1 ? "What the model saw" : `The ${number(count)} frames the model saw`;
    return make("figure", { class: "film" }, list, make("figcaption", null,
      seen + (strip.needle !== null ? "; the needle is marked." : ".")));
  }

  // One frame -----------------------------------------------------------------------------------

  /** A frame as large as the window holds; arrow keys turn, and it can be saved. */
  async function enlarge(strip, at, name, from) {
    const sheet = new Image();
    sheet.src = `data:${strip.mime};base64,${strip.data}`;
    await sheet.decode();
    const canvas = make("canvas", { width: strip.width, height: strip.height, role: "img" });
    const caption = make("p");
    const file = (what) => `${name} ${what}`.replace(/[^\w.-]+/g, "_").slice(-120) + ".png";
    const draw = () => {
      canvas.getContext("2d").drawImage(sheet, at * strip.width, 0, strip.width, strip.height,
        0, 0, strip.width, strip.height);
      const label = strip.labels[at];
      canvas.setAttribute("aria-label", visible(label));
      caption.replaceChildren(isolated(label), ` · ${at + 1} of ${strip.labels.length}`);
    };
    const turn = (by) => {
      at = (at + by + strip.labels.length) % strip.labels.length;
      draw();
    };
    const save = (source, what) => source.toBlob((blob) => {
      const link = make("a", { href: URL.createObjectURL(blob), download: file(what) });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    });
    const saveStrip = () => {
      const whole = make("canvas", { width: sheet.width, height: sheet.height });
      whole.getContext("2d").drawImage(sheet, 0, 0);
      save(whole, "strip");
    };
    const dialog = make("dialog", { "aria-label": "Frame" });
    const button = (text, act) => {
      const made = make("button", { type: "button" }, text);
      made.addEventListener("click", act);
      return made;
    };
    dialog.append(canvas, caption, make("div", null, button("← Previous", () => turn(-1)),
      button("Next →", () => turn(1)), button("Save frame", () => save(canvas, strip.labels[at])),
      button("Save strip", saveStrip), button("Close", () => dialog.close())));
    dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") turn(-1);
      if (event.key === "ArrowRight") turn(1);
    });
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      from.focus();
    });
    draw();
    document.body.append(dialog);
    dialog.showModal();
  }

  // Heatmaps ------------------------------------------------------------------------------------

  for (const grid of document.querySelectorAll(".heatmap")) {
    const missed = read(`${grid.id}-missed`);
    const out = grid.parentElement.querySelector(".cell-info");
    const lines = [...grid.tBodies[0].rows].map((line) => [...line.querySelectorAll("td")]
      .map((place) => place.firstElementChild));
    const tell = (cell) => {
      const found = missed[cell.dataset.place] || [];
      out.replaceChildren(make("strong", null, isolated(cell.getAttribute("aria-label"))));
      found.slice(0, 8).forEach(([needle, answer, said], place) => {
        out.append(place ? "; " : ". Missed: ", isolated(needle), " (", isolated(answer), "; said ",
          isolated(said || "nothing"), ")");
      });
      if (found.length > 8) out.append(`; and ${found.length - 8} more`);
    };
    lines.forEach((line, y) => line.forEach((cell, x) => {
      if (!cell) return;
      cell.addEventListener("mouseenter", () => tell(cell));
      cell.addEventListener("focus", () => tell(cell));
      cell.addEventListener("keydown", (event) => {
        const [dx, dy] = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0],
          ArrowRight: [1, 0] }[event.key] || [0, 0];
        const to = (dx || dy) && lines[y + dy] && lines[y + dy][x + dx];
        if (!to) return;
        event.preventDefault();
        for (const each of lines.flat()) if (each) each.tabIndex = -1;
        to.tabIndex = 0;
        to.focus();
      });
    }));
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
      const place = row ? fitting().indexOf(row) : -1;
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
  // A page of `longva-eval view`: what is in progress is asked for; new results load it again.
  function watch() {
    let known = "";
    setInterval(async () => {
      let state;
      try {
        state = await (await fetch("state")).json();
      } catch {
        byId("live").replaceChildren(make("p", null, "longva-eval view has ended."));
        return;
      }
      if (known && state.results !== known && !opened) location.reload();
      known = known || state.results;
      const open = [...byId("live").querySelectorAll("details")].map((each) => each.open);
      byId("live").innerHTML = state.progress;  // escaped by the server's template
      byId("live").querySelectorAll("details").forEach((each, n) => (each.open = Boolean(open[n])));
    }, 2000);
  }
  if (config.live) watch();
  if (byId("list")) {
    addEventListener("hashchange", follow);
    addEventListener("keydown", onKey);
    addEventListener("beforeprint", () => {
      start();
      for (const each of document.querySelectorAll("main > section:not(#recipes) details")) {
        if (!each.closest("#list")) each.open = true;
      }
    });
    if (!follow()) {
      const later = window.requestIdleCallback || ((run) => setTimeout(run, 50));
      later(start, { timeout: 1000 });  // also where nothing is ever idle
    }
  }
})();
