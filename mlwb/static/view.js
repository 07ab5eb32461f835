// What scripts add to a view: search, sort, filter, selection, hover, keyboard; in JupyterLab, the way to the kernel.
// One ES module: inlined into a document, appended to a notebook's output, or loaded by anywidget (`render`).
//
// The markup speaks in attributes, so that any view can use all of it:
//   <div data-list="ID" data-select="column"> … <details data-item="NAME" data-type="number" data-text="what search reads" data-sort-KEY="1.5">
//   <input data-search="ID">   <button data-sort="KEY" data-for="ID">   <button data-filter="type" data-value="number" data-for="ID">   <output data-count="ID">
//   <button data-pick="column" data-value="NAME">                       select (and open) that item from anywhere
//   <button data-ask='{"ask": "subset", …}'> or <form data-ask='{…}'>   ask the kernel; its fields are added; the answer goes to the next .answer
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
      const key = "sort" + s.dataset.sort[0].toUpperCase() + s.dataset.sort.slice(1), sign = next === "up" ? 1 : -1;
      const sorted = next ? [...original].sort((a, b) => compare(a.dataset[key], b.dataset[key], sign)) : original;
      for (const e of sorted) list.append(e);
    });
    show();
  }
}
function compare(a = "", b = "", sign) {
  if (a === "" || b === "") return (a === "") - (b === "");            // what has no value comes last, either way
  const x = Number(a), y = Number(b);
  return sign * (Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y);
}

function choose(root, view, bridge) {
  let selection = {};
  const paint = (open) => {
    for (const list of root.querySelectorAll("[data-select]")) for (const e of kids(list)) {
      const on = selection[list.dataset.select] === e.dataset.item;
      e.toggleAttribute("data-selected", on);
      if (on && open && e.tagName === "DETAILS") {
        e.open = true; e.hidden = false;
        for (let up = e.parentElement?.closest("details"); up; up = up.parentElement?.closest("details")) up.open = true;
        if (open === "reveal") e.scrollIntoView({ block: "nearest", behavior: reduced() ? "auto" : "smooth" });
      }
    }
  };
  const select = (key, value, open) => {
    if (value === null) { const { [key]: _, ...rest } = selection; selection = rest; } else selection = { ...selection, [key]: value };
    paint(open); bridge?.select?.(selection);
    root.host?.dispatchEvent(new CustomEvent("mlwb-select", { detail: selection, bubbles: true, composed: true }));
  };
  view.addEventListener("click", (event) => {
    const pick = event.target.closest("[data-pick]");
    if (pick) { select(pick.dataset.pick, pick.dataset.value, "reveal"); pick.tagName === "A" && event.preventDefault(); return; }
    const summary = event.target.closest("summary"), item = summary?.parentElement, list = item?.parentElement;
    if (list?.dataset?.select && item.dataset.item !== undefined) select(list.dataset.select, item.open ? null : item.dataset.item, "");
  });
  view.addEventListener("keydown", (event) => {
    const summary = event.target.closest?.("summary"), item = summary?.parentElement;
    if (!item?.dataset?.item || !["ArrowDown", "ArrowUp", "Home", "End"].includes(event.key)) return;
    const all = kids(item.parentElement).filter((e) => !e.hidden), at = all.indexOf(item);
    const next = { ArrowDown: all[at + 1], ArrowUp: all[at - 1], Home: all[0], End: all.at(-1) }[event.key];
    if (next) { next.querySelector("summary").focus(); event.preventDefault(); }
  });
  const take = (value, open = "reveal") => {
    if (JSON.stringify(value ?? {}) === JSON.stringify(selection)) return;
    selection = { ...(value ?? {}) }; paint(open);
  };
  bridge?.onSelection?.(take);
  take(bridge?.selection?.(), true);
}

function hover(root, view) {
  let tip;
  const hide = () => { tip?.remove(); tip = undefined; };
  for (const t of root.querySelectorAll("svg title")) { t.parentElement.dataset.tip = t.textContent; t.remove(); }   // ours in place of the browser's
  for (const e of root.querySelectorAll("svg [data-tip]")) e.setAttribute("aria-label", e.dataset.tip);
  view.addEventListener("pointermove", (event) => {
    const mark = event.target.closest?.("[data-tip]");
    if (!mark) return hide();
    if (!tip?.isConnected) { tip = document.createElement("div"); tip.className = "tip"; tip.setAttribute("role", "tooltip"); view.append(tip); }
    tip.textContent = mark.dataset.tip;
    const box = tip.getBoundingClientRect(), w = innerWidth, at = { x: event.clientX + 12, y: event.clientY + 16 };
    const origin = anchor(tip);
    tip.style.left = Math.max(4, Math.min(at.x, w - box.width - 8)) - origin.x + "px";
    tip.style.top = (at.y + box.height > innerHeight ? event.clientY - box.height - 8 : at.y) - origin.y + "px";
  });
  view.addEventListener("pointerleave", hide); addEventListener("scroll", hide, { passive: true, capture: true });
}
function anchor(tip) {                       // `contain` makes the host the box that fixed is fixed to
  tip.style.left = tip.style.top = "0px";
  const { x, y } = tip.getBoundingClientRect();
  return { x, y };
}

function asking(root, view, bridge, restart) {
  view.classList.toggle("live", Boolean(bridge?.ask));
  if (!bridge?.ask) return;
  const ask = async (element, question) => {
    const place = element.closest(".ask, [data-item], .view").parentElement?.querySelector(":scope > .answer") ??
      element.closest("[data-item], .view").querySelector(".answer");
    place?.setAttribute("aria-busy", "true");
    let answer;
    try { answer = await bridge.ask(question); } catch (error) { answer = { error: String(error) }; }
    place?.removeAttribute("aria-busy");
    if (answer.replace) return restart(answer.replace);
    if (!place) return;
    if (answer.error) { const p = document.createElement("p"); p.className = "failed"; p.textContent = answer.error; place.replaceChildren(p); return; }
    place.innerHTML = answer.html ?? "";      // our own kernel's autoescaped template
    for (const t of place.querySelectorAll("svg title")) { t.parentElement.dataset.tip = t.textContent; t.remove(); }
  };
  view.addEventListener("submit", (event) => {
    const form = event.target.closest("form[data-ask]"); if (!form) return;
    event.preventDefault(); ask(form, { ...JSON.parse(form.dataset.ask), ...Object.fromEntries(new FormData(form)) });
  });
  view.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-ask]"); if (button) ask(button, JSON.parse(button.dataset.ask));
  });
}

// root: a shadow root (or any element) that holds one .view;  bridge: the way to a kernel, or nothing
function mount(root, bridge) {
  const view = root.querySelector(".view");
  if (!view || view.dataset.mounted) return;
  view.dataset.mounted = "1"; view.classList.add("live-js");
  const restart = (html) => { root.innerHTML = html; mount(root, bridge); };
  arrange(root); choose(root, view, bridge); hover(root, view); asking(root, view, bridge, restart);
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
  let told = () => {};
  const selected = () => told(model.get("selection")), answered = () => {
    const answer = model.get("answer"), done = waiting.get(answer?.id);
    if (done) { waiting.delete(answer.id); done(answer); }
  };
  model.on("change:selection", selected); model.on("change:answer", answered);
  const bridge = {
    selection: () => model.get("selection"), onSelection: (fn) => { told = fn; },
    select: (selection) => { model.set("selection", selection); model.save_changes(); },
    ask: (question) => new Promise((done) => {
      const id = `${Date.now()}-${Math.random().toString(36).slice(2)}`;
      waiting.set(id, done); model.set("question", { ...question, id }); model.save_changes();
    }),
  };
  const draw = () => { root.innerHTML = model.get("html"); mount(root, bridge); };
  model.on("change:html", draw); draw();
  el.append(host);
  return () => { stop?.(); model.off("change:selection", selected); model.off("change:answer", answered); model.off("change:html", draw); };
}

if (typeof document !== "undefined") {
  for (const host of document.querySelectorAll("mlwb-view")) upgrade(host);
  if (!globalThis.__mlwbPrinting) { globalThis.__mlwbPrinting = true; printing(); }
}
export default { render };
