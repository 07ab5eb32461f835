// What scripts add to a view: search, sort, filter, selection, hover, keyboard; in JupyterLab, the way to the kernel.
// One ES module: inlined into a document, appended to a notebook's output, or loaded by anywidget (`render`).
//
// The markup speaks in attributes, so that any view can use all of it:
//   <div data-list="ID" data-select="column"> … <details data-item="NAME" data-type="number" data-text="what search reads, if not NAME" data-sort-KEY="1.5">
//   <input data-search="ID">   <button data-sort="KEY" data-for="ID">   <button data-filter="type" data-value="number" data-for="ID">   <output data-count="ID">
//   <button data-pick="column" data-value="NAME">                       select (and open) that item from anywhere
//   <button data-pick="other" data-with="A" data-value="B">             two of them; data-pairs='[[0, 1, "what is known"], …]' on the list says what a document knows
//   <svg data-rows="NAME" data-bins="12" data-edges='[…]' data-from="34" data-to="400"> its bars select ranges of that column (with a kernel: the edges); <ul data-rows="NAME"> <li data-value> its values
//   <button data-unpick="0">, <button data-unpick>                      drop one condition on the rows, or all
//   <form data-limit="NAME">, <button data-missing="NAME">              a range or value that was typed; the rows without a value
//   <form data-against="NAME">, <select data-as="NAME">                 a second column; another type
//   <button data-ask='{"ask": "finer", …}'> or <form data-ask='{…}'>    ask the kernel; its fields are added; the answer goes to the next .answer
// A selection is {column, other, rows}: rows is {column, low, high} (low ≤ x < high), {column, values}, or a list of such that hold together.
const kids = (list) => [...list.children].filter((e) => e.dataset.item !== undefined);
const text = (e) => (e.dataset.text ?? e.dataset.item).toLowerCase().normalize("NFC");
const reduced = () => globalThis.matchMedia?.("(prefers-reduced-motion: reduce)").matches;

function arrange(root) {
  const by = (attribute, id) => [...root.querySelectorAll(`[data-${attribute}]`)].filter((e) => (e.dataset.for ?? e.dataset[attribute]) === id);
  for (const list of root.querySelectorAll("[data-list]")) {
    const id = list.dataset.list, search = by("search", id)[0], filters = by("filter", id), sorts = by("sort", id), count = by("count", id)[0];
    const original = kids(list);
    const show = () => {
      const words = (search?.value ?? "").toLowerCase().normalize("NFC").split(/\s+/).filter(Boolean);
      const on = filters.filter((f) => f.getAttribute("aria-pressed") === "true");
      let n = 0;
      for (const e of original) {
        const kept = words.every((w) => text(e).includes(w)) && (!on.length || on.some((f) => (e.dataset[f.dataset.filter] ?? "") === f.dataset.value));
        e.hidden = !kept; n += kept;
      }
      if (count) count.textContent = (count.dataset.text ?? "{shown} / {all}").replace("{shown}", n).replace("{all}", original.length);
      const none = root.querySelector(`[data-none="${CSS.escape(id)}"]`); if (none) none.hidden = n > 0;
    };
    search?.addEventListener("input", show);
    search?.addEventListener("keydown", (e) => { if (e.key === "Escape" && search.value) { search.value = ""; show(); } });
    for (const f of filters) f.addEventListener("click", () => { f.setAttribute("aria-pressed", f.getAttribute("aria-pressed") !== "true"); show(); });
    for (const s of sorts) s.addEventListener("click", () => {
      const first = s.dataset.first ?? "down", now = s.dataset.dir, next = now === undefined ? first : now === first ? (first === "down" ? "up" : "down") : "";
      for (const o of sorts) { delete o.dataset.dir; o.removeAttribute("aria-description"); }
      if (next) { s.dataset.dir = next; s.setAttribute("aria-description", next === "up" ? "↑" : "↓"); }
      const sign = next === "up" ? 1 : -1;
      const sorted = next ? [...original].sort((a, b) => compare(sortable(a, s.dataset.sort), sortable(b, s.dataset.sort), sign)) : original;
      for (const e of sorted) list.append(e);
    });
    show();
  }
}
const sortable = (e, key) => e.dataset["sort" + key[0].toUpperCase() + key.slice(1)] ?? (key === "name" ? e.dataset.item : key === "type" ? e.dataset.type : "");
function compare(a = "", b = "", sign) {
  if (a === "" || b === "") return (a === "") - (b === "");            // what has no value comes last, either way
  const x = Number(a), y = Number(b);
  return sign * (Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y);
}

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const conditions = (selection) => [selection.rows ?? []].flat();
const plain = ({ column, other, rows, ...rest }) => ({ ...rest, ...(column !== undefined && { column }), ...(other !== undefined && { other }),
  ...(rows !== undefined && [rows].flat().length && { rows: [rows].flat().length === 1 ? [rows].flat()[0] : rows }) });

function choose(root, view, bridge, notice) {
  let selection = {}, drawn = "";
  const lists = () => [...root.querySelectorAll("[data-select]")];
  const item = (name) => lists().filter((l) => l.dataset.select === "column").flatMap(kids).find((e) => e.dataset.item === name);
  const unfold = (e) => {
    e.open = true; e.hidden = false;
    for (let up = e.parentElement?.closest("details"); up; up = up.parentElement?.closest("details")) up.open = true;
  };
  const paint = (open) => {
    for (const list of lists()) for (const e of kids(list)) {
      const on = selection[list.dataset.select] === e.dataset.item;
      e.toggleAttribute("data-selected", on);
      e.toggleAttribute("data-other", list.dataset.select === "column" && selection.other === e.dataset.item);
      if (on && open && e.tagName === "DETAILS") {
        unfold(e);
        if (open === "reveal") e.scrollIntoView({ block: "nearest", behavior: reduced() ? "auto" : "smooth" });
      }
    }
    pair(open); marks(root, selection);
  };
  const pair = (open) => {                     // two columns: what the document knows of them, both unfolded; the kernel draws them
    const { column, other } = selection, key = JSON.stringify([column, other, Boolean(bridge?.ask)]);
    if (key === drawn) return;
    drawn = key;
    for (const e of root.querySelectorAll(".two-columns")) e.remove();
    const a = other !== undefined && item(column), b = a && item(other);
    if (!b) return;
    furnish(root, a);
    if (open) unfold(b);
    const list = a.parentElement, at = [a, b].map((e) => Number(e.dataset.at));
    const known = JSON.parse(list.dataset.pairs ?? "[]").find(([x, y]) => (x === at[0] && y === at[1]) || (x === at[1] && y === at[0]));
    const place = a.querySelector(".acts"), box = document.createElement("div"), title = document.createElement("h4"), words = document.createElement("p");
    box.className = "two-columns"; box.tabIndex = -1;
    title.textContent = `${column} × ${other}`; words.textContent = known?.[2] ?? list.dataset.nopair ?? "";
    box.append(title, words); place.after(box);
    if (bridge?.ask) ask(box, { ask: "pair", column, other });
    else if (open === "reveal") box.scrollIntoView({ block: "center", behavior: reduced() ? "auto" : "smooth" });
    notice(`${title.textContent}: ${words.textContent}`, true);
  };
  const ask = async (box, question) => {
    const answer = await bridge.ask(question), place = document.createElement("div");
    if (answer.error) { place.className = "failed"; place.textContent = answer.error; } else place.innerHTML = answer.html ?? "";   // our own kernel's template
    box.querySelector("h4")?.toggleAttribute("hidden", Boolean(answer.html)); box.querySelector(":scope > p").before(place);
  };
  const set = (next, open = "") => {
    next = plain(next);
    if (next.other === next.column || next.column === undefined) delete next.other;
    if (!same(next.rows, selection.rows)) {
      if (!bridge?.select) { notice(root.querySelector("[data-kernel]")?.dataset.kernel ?? ""); return; }
      view.setAttribute("aria-busy", "true");
    }
    selection = next; paint(open); bridge?.select?.(selection);
    root.host?.dispatchEvent(new CustomEvent("mlwb-select", { detail: selection, bubbles: true, composed: true }));
  };
  const select = (key, value, open) => {
    const { [key]: _, ...rest } = selection;
    if (key === "column") delete rest.other;
    set(value === null ? rest : { ...rest, [key]: value }, open);
  };
  const restrict = (condition, toggle) => {    // one condition a column; the same again takes it away
    const rest = conditions(selection).filter((c) => c.column !== condition.column), now = conditions(selection).find((c) => c.column === condition.column);
    set({ ...selection, rows: toggle && now && same(now, condition) ? rest : [...rest, condition] });
  };
  view.addEventListener("click", (event) => {
    const pick = event.target.closest("[data-pick]"), drop = event.target.closest("[data-unpick]"), gone = event.target.closest("[data-missing]");
    if (gone) return restrict({ column: gone.dataset.missing, values: [null] }, true);
    if (drop) return set({ ...selection, rows: drop.dataset.unpick === "" ? [] : conditions(selection).filter((_, i) => i !== Number(drop.dataset.unpick)) });
    if (pick?.dataset.pick === "other") return set({ ...selection, column: pick.dataset.with, other: pick.dataset.value }, "reveal");
    if (pick) { select(pick.dataset.pick, pick.dataset.value, "reveal"); pick.tagName === "A" && event.preventDefault(); return; }
    const summary = event.target.closest("summary"), row = summary?.parentElement, list = row?.parentElement;
    if (!list?.dataset?.select || row.dataset.item === undefined) return;
    if (event.shiftKey && list.dataset.pairs && selection.column !== undefined && selection.column !== row.dataset.item) {
      event.preventDefault(); return set({ ...selection, other: row.dataset.item }, "reveal");
    }
    select(list.dataset.select, row.open ? null : row.dataset.item, "");
  });
  view.addEventListener("submit", (event) => {
    const form = event.target, { against, limit } = form.dataset, given = Object.fromEntries(new FormData(form));
    if (against === undefined && limit === undefined) return;
    event.preventDefault();
    if (against !== undefined) {
      if (item(given.other)) set({ ...selection, column: against, other: given.other }, "reveal");
      else notice(`${given.other}?`);
      return;
    }
    const typed = (s) => (s?.trim() && !Number.isNaN(Number(s.replaceAll(",", ""))) ? Number(s.replaceAll(",", "")) : s?.trim());
    if ("value" in given) return restrict({ column: limit, values: [given.value] });
    const range = { column: limit }; for (const k of ["low", "high"]) if (given[k]?.trim()) range[k] = typed(given[k]);
    if (Object.keys(range).length > 1) restrict(range);
  });
  view.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.target.matches?.("input, select")) {
      const { column, ...rest } = selection;
      if (selection.rows) set({ ...selection, rows: [] });
      else if (selection.other !== undefined) set({ ...selection, other: undefined });
      else if (column !== undefined) { const e = item(column); if (e) { e.open = false; e.querySelector("summary")?.focus(); } set(rest); }
      return;
    }
    const summary = event.target.closest?.("summary"), row = summary?.parentElement;
    if (!row?.dataset?.item || !["ArrowDown", "ArrowUp", "Home", "End"].includes(event.key)) return;
    const all = kids(row.parentElement).filter((e) => !e.hidden), at = all.indexOf(row);
    const next = { ArrowDown: all[at + 1], ArrowUp: all[at - 1], Home: all[0], End: all.at(-1) }[event.key];
    if (next) { next.querySelector("summary").focus(); event.preventDefault(); }
  });
  const take = (value, open = "reveal") => {
    const next = plain(value ?? {});
    if (same(next, selection)) return;
    selection = next; paint(open);
  };
  bars(root, view, { restrict, conditions: () => conditions(selection) });
  bridge?.onSelection?.(take);
  take(bridge?.selection?.(), bridge?.again ? "" : true);
}

// what only scripts need of a row stands in a document once, and is put into a row that is opened
function furnish(root, row) {
  const made = root.querySelector("template[data-furniture]")?.content.cloneNode(true), detail = row?.querySelector(":scope > .detail");
  if (!made || !detail || detail.querySelector(".acts") || detail.querySelector(".banner.error")) return;
  for (const form of made.querySelectorAll("[data-against]")) form.dataset.against = row.dataset.item;
  detail.append(made);
}

// bars and values that select rows: one stop of the keyboard each, arrows walk, Enter or Space chooses, Shift extends
const inView = (svg, event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()).x;
function binned(svg) {
  const edges = JSON.parse(svg.dataset.edges ?? "[]"), from = Number(svg.dataset.from), to = Number(svg.dataset.to), k = Number(svg.dataset.bins);
  return { edges, from, to, k, at: (x) => Math.min(Math.max(Math.floor((x - from) / (to - from) * k), 0), k - 1) };
}
const parts = (chart) => [...chart.querySelectorAll(chart.dataset.bins ? ".marks > rect" : "[data-value]")];
function place(chart, part) {                // which bin a bar stands for
  const { at } = binned(chart); return at(Number(part.getAttribute("x")) + Number(part.getAttribute("width")) / 2);
}
function marks(root, selection) {            // what is chosen is said on the marks themselves
  const by = new Map(conditions(selection).map((c) => [c.column, c]));
  for (const chart of root.querySelectorAll("[data-rows]")) {
    const c = by.get(chart.dataset.rows);
    if (!c && !chart.dataset.chosen) continue;
    if (c) chart.dataset.chosen = "1"; else delete chart.dataset.chosen;
    const edges = c && chart.dataset.edges ? JSON.parse(chart.dataset.edges) : [];
    for (const p of parts(chart)) {
      let on = false;
      if (c && chart.dataset.edges) { const i = place(chart, p); on = !c.values && within(edges[i], edges[i + 1], c); } else if (c) on = (c.values ?? []).includes(p.dataset.value);
      p.setAttribute("aria-selected", String(on));
    }
  }
}
const within = (low, high, c) => (c.low === undefined || low >= c.low) && (c.high === undefined || (high !== null && high <= c.high));

function bars(root, view, { restrict, conditions }) {
  let start, last, band;
  for (const chart of root.querySelectorAll("[data-rows]")) {
    const all = parts(chart); if (!all.length) continue;
    for (const p of all) p.setAttribute("role", "option");
    chart.tabIndex = 0; chart.setAttribute("role", "listbox"); chart.setAttribute("aria-multiselectable", "true");
    if (!chart.hasAttribute("aria-label")) chart.setAttribute("aria-label", chart.dataset.rows);
  }
  const range = (chart, i, j) => {
    const { edges } = binned(chart), [a, b] = [Math.min(i, j), Math.max(i, j)], high = edges[b + 1];
    return { column: chart.dataset.rows, low: edges[a], ...(high !== null && { high }) };
  };
  const pick = (chart, part, extend) => {
    const column = chart.dataset.rows, now = conditions().find((c) => c.column === column);
    if (chart.dataset.bins) {
      const i = typeof part === "number" ? part : place(chart, part);
      const from = extend && now && !now.values ? ends(chart, now) : [i, i];
      restrict(range(chart, Math.min(i, from[0]), Math.max(i, from[1])), !extend);
      return;
    }
    const value = part.dataset.value, old = now?.values ?? [];
    if (!extend) return restrict({ column, values: [value] }, true);
    const values = old.includes(value) ? old.filter((v) => v !== value) : [...old, value];
    restrict({ column, values: values.length ? values : old }, !values.length);
  };
  const ends = (chart, c) => {
    const { edges, k } = binned(chart), on = [...Array(k).keys()].filter((i) => within(edges[i], edges[i + 1], c));
    return on.length ? [on[0], on.at(-1)] : [Infinity, -Infinity];
  };
  const shade = (chart, i, j) => {
    const { from, to, k } = binned(chart), w = (to - from) / k, [a, b] = [Math.min(i, j), Math.max(i, j)], box = chart.viewBox.baseVal;
    band ??= document.createElementNS(chart.namespaceURI, "rect");
    if (band.parentNode !== chart) chart.append(band);
    for (const [name, v] of Object.entries({ class: "brush", x: from + a * w, y: 0, width: (b - a + 1) * w, height: box.height - 22 })) band.setAttribute(name, v);
  };
  view.addEventListener("pointerdown", (event) => {
    const svg = event.target.closest("svg[data-rows]");
    if (!svg || event.button || event.pointerType === "touch") return;
    const { at, from, to } = binned(svg), x = inView(svg, event);
    if (x < from || x > to) return;
    start = { svg, i: at(x) }; last = start.i; event.preventDefault(); svg.focus({ preventScroll: true });
  });
  view.addEventListener("pointermove", (event) => {
    if (!start) return;
    const i = binned(start.svg).at(inView(start.svg, event));
    if (i !== last || band?.parentNode) { last = i; shade(start.svg, start.i, i); }
  });
  const finish = (event) => {
    if (!start) return;
    const { svg, i } = start, j = last; start = undefined; band?.remove();
    if (event.type === "pointercancel") return;
    if (i === j) pick(svg, i, event.shiftKey); else restrict(range(svg, i, j));
  };
  view.addEventListener("pointerup", finish); view.addEventListener("pointercancel", finish);
  view.addEventListener("click", (event) => {
    const value = event.target.closest("[data-rows] > [data-value]"), svg = event.target.closest("svg[data-rows]");
    if (value) pick(value.parentElement, value, event.shiftKey || event.ctrlKey || event.metaKey);
    else if (svg && event.pointerType === "touch") pick(svg, binned(svg).at(inView(svg, event)), false);
  });
  view.addEventListener("keydown", (event) => {
    const chart = event.target; if (!chart.dataset?.rows) return;
    const all = parts(chart), now = all.indexOf(chart.querySelector("[data-active]"));
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
    if (step !== undefined) {
      event.preventDefault(); event.stopPropagation();
      walk(chart, all, Math.min(Math.max(now < 0 ? (step < 0 && step !== -Infinity ? all.length - 1 : step === Infinity ? all.length - 1 : 0) : now + step, 0), all.length - 1));
    } else if (["Enter", " "].includes(event.key) && all[now]) { event.preventDefault(); pick(chart, all[now], event.shiftKey); }
  });
  view.addEventListener("focusout", (event) => { const on = event.target.querySelector?.("[data-active]"); if (on && event.target.dataset?.rows) { on.removeAttribute("data-active"); view.dispatchEvent(new CustomEvent("mlwb-tip")); } });
  const walk = (chart, all, i) => {
    for (const p of all) p.removeAttribute("data-active");
    const part = all[i]; part.setAttribute("data-active", ""); part.id ||= `mark-${chart.dataset.rows}-${i}`;
    part.setAttribute("aria-label", tipOf(part) ?? part.textContent); chart.setAttribute("aria-activedescendant", part.id);
    view.dispatchEvent(new CustomEvent("mlwb-tip", { detail: part }));
  };
}

const tipOf = (e) => e.dataset.tip ?? kept(e);
function kept(e) {                           // a title becomes ours in place of the browser's, when it is first met
  const t = e.querySelector?.(":scope > title"); if (!t) return e.dataset?.tip;
  e.dataset.tip = t.textContent; t.remove();
  return e.dataset.tip;
}
function hover(root, view) {
  let tip;
  const hide = () => { tip?.remove(); tip = undefined; };
  const show = (text, x, y, above) => {
    if (!tip?.isConnected) { tip = document.createElement("div"); tip.className = "tip"; tip.setAttribute("role", "tooltip"); view.append(tip); }
    if (tip.textContent !== text) tip.textContent = text;
    const box = tip.getBoundingClientRect(), w = innerWidth, origin = anchor(tip);
    tip.style.left = Math.max(4, Math.min(x + 12, w - box.width - 8)) - origin.x + "px";
    tip.style.top = (y + 16 + box.height > innerHeight ? above - box.height - 8 : y + 16) - origin.y + "px";
  };
  const marked = (target) => {
    for (let e = target; e && e !== view; e = e.parentElement) {
      const text = e.closest("svg") ? tipOf(e) : e.dataset?.tip;
      if (text) return text;
      if (e.tagName === "svg") return undefined;
    }
  };
  const under = (event) => {                 // anywhere above a bar tells of it: small ones can't be hit
    const svg = event.target.closest?.("svg[data-rows]");
    if (!svg) return marked(event.target);
    const { at, from, to } = binned(svg), x = inView(svg, event);
    if (x < from || x > to) return marked(event.target);
    const i = at(x), part = parts(svg).find((p) => place(svg, p) === i);
    return part && tipOf(part);
  };
  view.addEventListener("pointermove", (event) => {
    const text = under(event);
    if (text) show(text, event.clientX, event.clientY, event.clientY); else hide();
  });
  view.addEventListener("mlwb-tip", ({ detail }) => {
    if (!detail) return hide();
    const text = tipOf(detail), box = detail.getBoundingClientRect();
    if (text) show(text, box.left, box.bottom - 8, box.top); else hide();
  });
  view.addEventListener("pointerleave", hide); addEventListener("scroll", hide, { passive: true, capture: true });
}
function anchor(tip) {                       // `contain` makes the host the box that fixed is fixed to
  tip.style.left = tip.style.top = "0px";
  const { x, y } = tip.getBoundingClientRect();
  return { x, y };
}

function asking(root, view, bridge) {
  view.classList.toggle("live", Boolean(bridge?.ask));
  if (!bridge?.ask) return;
  const ask = async (element, question) => {
    const place = element.closest(".ask, .acts, [data-item], .view").parentElement?.querySelector(":scope > .answer") ??
      element.closest("[data-item], .view").querySelector(".answer");
    place?.setAttribute("aria-busy", "true");
    let answer;
    try { answer = await bridge.ask(question); } catch (error) { answer = { error: String(error) }; }
    place?.removeAttribute("aria-busy");
    if (!place) return answer;
    if (answer.error) { const p = document.createElement("p"); p.className = "failed"; p.textContent = answer.error; place.replaceChildren(p); return answer; }
    place.innerHTML = answer.html ?? "";      // our own kernel's autoescaped template
    return answer;
  };
  view.addEventListener("submit", (event) => {
    const form = event.target.closest("form[data-ask]"); if (!form) return;
    event.preventDefault(); ask(form, { ...JSON.parse(form.dataset.ask), ...Object.fromEntries(new FormData(form)) });
  });
  view.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-ask]"); if (button) ask(button, JSON.parse(button.dataset.ask));
  });
  view.addEventListener("change", async (event) => {
    const as = event.target.closest("select[data-as]"); if (!as) return;
    const was = [...as.options].find((o) => o.defaultSelected)?.value;
    if ((await ask(as, { ask: "as", column: as.dataset.as, type: as.value })).error) as.value = was;
  });
}

// what a reader has opened, typed and sorted outlives a view that is drawn anew
function remember(root) {
  const view = root.querySelector(".view"), on = root.activeElement, key = (e) => e && ["rows", "unpick", "as", "limit", "against", "missing", "sort", "search", "filter"]
    .filter((k) => e.dataset[k] !== undefined).map((k) => `[data-${k}="${CSS.escape(e.dataset[k])}"]`)[0];
  const open = [...root.querySelectorAll("details[open][data-item]")].map((e) => [e.parentElement.dataset.list, e.dataset.item]);
  const typed = [...root.querySelectorAll("[data-search]")].map((e) => [e.dataset.search, e.value]);
  const pressed = [...root.querySelectorAll("[data-filter][aria-pressed=true]")].map((e) => `[data-filter="${e.dataset.filter}"][data-value="${CSS.escape(e.dataset.value)}"]`);
  const sorted = [...root.querySelectorAll("[data-sort][data-dir]")].map((e) => [`[data-sort="${e.dataset.sort}"]`, e.dataset.dir]);
  const tag = on?.tagName.toLowerCase(), item = on?.closest?.("[data-item]")?.dataset.item;
  const focus = on && (on.tagName === "SUMMARY" ? "summary" : key(on) ? tag + key(on) : key(on.closest("form")) ? key(on.closest("form")) + ` ${tag}` : on.dataset.unpick !== undefined ? ".picked button" : "");
  return () => {
    if (!view) return;
    for (const [list, name] of open) { const e = root.querySelector(`[data-list="${list}"] > [data-item="${CSS.escape(name)}"]`); if (e) e.open = true; }
    for (const [id, value] of typed) { const e = root.querySelector(`[data-search="${id}"]`); if (e && value) { e.value = value; e.dispatchEvent(new Event("input")); } }
    for (const p of pressed) root.querySelector(p)?.click();
    for (const [s, dir] of sorted) { const e = root.querySelector(s); for (let i = 0; e && i < 3 && e.dataset.dir !== dir; i++) e.click(); }
    if (!on) return;
    const within = item === undefined ? root : root.querySelector(`[data-item="${CSS.escape(item)}"]`) ?? root;
    const next = (focus && (within.querySelector(focus) ?? root.querySelector(focus))) || root.querySelector(".step button, .picked button") || root.querySelector("input[type=search]");
    next?.focus({ preventScroll: true });
  };
}

// root: a shadow root (or any element) that holds one .view;  bridge: the way to a kernel, or nothing
function mount(root, bridge) {
  const view = root.querySelector(".view");
  if (!view || view.dataset.mounted) return;
  view.dataset.mounted = "1"; view.classList.add("live-js");
  const notice = (text, quiet) => {           // said to everybody, or to those who listen
    const place = root.querySelector(".notice"); if (!place) return;
    place.classList.toggle("sr", Boolean(quiet)); place.textContent = "";
    setTimeout(() => { place.textContent = text; }, 60);
    clearTimeout(place.timer); if (!quiet) place.timer = setTimeout(() => { place.textContent = ""; }, 9000);
  };
  for (const list of root.querySelectorAll("[data-list]")) kids(list).forEach((e, i) => { e.dataset.at = i; });
  view.addEventListener("toggle", (event) => { if (event.target.open && event.target.dataset.item !== undefined) furnish(root, event.target); }, true);
  for (const e of root.querySelectorAll("details[open][data-item]")) furnish(root, e);
  arrange(root); hover(root, view); asking(root, view, bridge); choose(root, view, bridge, notice);
  bridge?.onNotice?.(notice);
}

const open = () => [...document.querySelectorAll("mlwb-view")].flatMap((host) => [...(host.shadowRoot?.querySelectorAll("details") ?? [])]);
function printing() {                        // paper has no clicks: everything is unfolded
  addEventListener("beforeprint", () => { for (const d of open()) if (!d.open) { d.open = true; d.dataset.printed = "1"; } });
  addEventListener("afterprint", () => { for (const d of open()) if (d.dataset.printed) { d.open = false; delete d.dataset.printed; } });
}

function theme(host) {                       // Jupyter and VS Code have a theme of their own; elsewhere the system's holds
  const body = document.body, paint = () => {
    const light = body.dataset.jpThemeLight ?? (body.dataset.vscodeThemeKind && String(body.dataset.vscodeThemeKind.includes("light")));
    if (light !== undefined) host.dataset.theme = light === "false" ? "dark" : "light";
  };
  paint();
  if (!host.dataset.theme) return;
  const watch = new MutationObserver(paint);
  watch.observe(body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-vscode-theme-kind"] });
  return () => watch.disconnect();
}

function upgrade(host) {                     // a view that stands in a page
  if (host.dataset.upgraded) return;
  host.dataset.upgraded = "1"; theme(host);
  const template = host.querySelector(":scope > template[shadowrootmode]");
  if (!host.shadowRoot && template) { host.attachShadow({ mode: "open" }).append(template.content); template.remove(); }   // came in by innerHTML
  const data = host.querySelector(":scope > script[type='application/json']");
  if (!host.shadowRoot && data) host.attachShadow({ mode: "open" }).innerHTML = JSON.parse(data.textContent);                // a notebook's output
  if (host.shadowRoot) mount(host.shadowRoot);
}

// anywidget: the view in a notebook with a kernel. Traits: html, selection (both ways), question {id, …} -> answer {id, html | replace | error}
function render({ model, el }) {
  const host = document.createElement("mlwb-view");
  host.dataset.upgraded = "1"; host.style.display = "block";
  host.dataset.lmSuppressShortcuts = "true";  // typing into the search is no notebook shortcut
  const stop = theme(host), root = host.attachShadow({ mode: "open" }), waiting = new Map();
  for (const type of ["keydown", "keypress", "keyup", "contextmenu"]) host.addEventListener(type, (e) => e.stopPropagation());
  let told = () => {}, notice = () => {};
  const selected = () => told(model.get("selection")), answered = () => {
    const answer = model.get("answer"), done = waiting.get(answer?.id);
    if (done) { waiting.delete(answer.id); done(answer); }
    else if (answer?.id === "" && answer.error) { root.querySelector(".view")?.removeAttribute("aria-busy"); notice(answer.error); }
  };
  model.on("change:selection", selected); model.on("change:answer", answered);
  const bridge = {
    selection: () => model.get("selection"), onSelection: (fn) => { told = fn; }, onNotice: (fn) => { notice = fn; },
    select: (selection) => { model.set("selection", selection); model.save_changes(); },
    ask: (question) => new Promise((done) => {
      const id = `${Date.now()}-${Math.random().toString(36).slice(2)}`;
      waiting.set(id, done); model.set("question", { ...question, id }); model.save_changes();
    }),
  };
  const draw = () => {
    const again = remember(root);
    host.style.minHeight = `${host.offsetHeight}px`;      // what is below keeps its place
    root.innerHTML = model.get("html"); mount(root, bridge); again();
    if (bridge.again) notice(root.querySelector("[data-said]")?.textContent ?? root.querySelector(".facts")?.textContent ?? "", true);
    bridge.again = true; requestAnimationFrame(() => { host.style.minHeight = ""; });
  };
  model.on("change:html", draw); draw();
  el.append(host);
  return () => { stop?.(); model.off("change:selection", selected); model.off("change:answer", answered); model.off("change:html", draw); };
}

if (typeof document !== "undefined") {
  for (const host of document.querySelectorAll("mlwb-view")) upgrade(host);
  if (!globalThis.__mlwbPrinting) { globalThis.__mlwbPrinting = true; printing(); }
}
export default { render };
