// The Label page: one item after the other by keys 1 to 9, s to skip, u to undo; a name is asked for once and kept.
"use strict";

const desk = document.querySelector("[data-desk]");

if (desk) {
  const asked = document.querySelector("[data-name]"), told = document.querySelector("[data-told]");
  const who = document.querySelector("[data-who]"), task = desk.dataset.task, view = desk.dataset.view;
  const KEPT = "icehouse-annotator", DOUBLE_MS = 500;
  let annotator = null, busy = false, said = 0, shownAt = 0;

  const remembered = () => { try { return localStorage.getItem(KEPT); } catch { return null; } };
  const parsed = (html) => new DOMParser().parseFromString(html, "text/html"); // its scripts never run
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  // One id for one click: sent again after a failure it is the same entry, and kept once.
  const entryId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");

  const rename = () => {
    asked.hidden = false;
    who.hidden = true;
    desk.replaceChildren();
    asked.elements.annotator.value = annotator || "";
    asked.elements.annotator.focus();
  };

  const ask = async (path, body) => {
    if (busy) return;
    busy = true;
    desk.setAttribute("aria-busy", "true");
    const how = { headers: { Accept: "text/html;q=0.9", "X-Fragment": "desk" } };
    if (body) {
      how.method = "POST";
      how.headers["Content-Type"] = "application/json";
      how.body = JSON.stringify({ task, annotator, view, entry_id: entryId(), ...body });
    }
    for (let tries = 0; ; tries += 1) {
      let answer = null;
      try { answer = await fetch(path, how); } catch { /* the server is away */ }
      const text = answer ? await answer.text().catch(() => "") : "";
      if (answer && answer.ok) {
        desk.replaceChildren(...parsed(text).body.childNodes);
        shownAt = performance.now();
        told.textContent = "";
        break;
      }
      let why = text || "The server does not answer";
      try { why = JSON.parse(text).detail; } catch { /* not JSON */ }
      told.textContent = String(why).slice(0, 300);
      if (answer && answer.status !== 503) {
        if (!body) rename();
        break;
      }
      told.textContent += body ? "; what you chose is sent again until it is kept." : "; it is asked again.";
      await wait(Math.min(500 * 2 ** tries, 10000));
    }
    desk.removeAttribute("aria-busy");
    busy = false;
    if (body) {
      said += 1;
      if (said % 4 === 0 || !desk.querySelector("[data-item]")) refresh();
    }
  };

  const refresh = async () => {
    const place = document.querySelector("[data-status]");
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      const made = answer.ok && parsed(await answer.text()).querySelector("[data-status]");
      if (made) place.replaceChildren(...made.childNodes);
    } catch { /* what is shown stays */ }
  };

  const begin = (name) => {
    annotator = name;
    try { localStorage.setItem(KEPT, name); } catch { /* asked again next time */ }
    asked.hidden = true;
    who.hidden = false;
    document.querySelector("[data-who-name]").textContent = name;
    ask(`/label/item?${new URLSearchParams({ task, view, annotator })}`);
  };

  asked.addEventListener("submit", (event) => {
    event.preventDefault();
    const name = asked.elements.annotator.value.trim();
    if (name) begin(name);
  });
  document.querySelector("[data-rename]").addEventListener("click", rename);

  desk.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    // The second half of a double click is no word on the item that has come in between.
    if (!button || (event.detail > 1 && performance.now() - shownAt < DOUBLE_MS)) return;
    const item = desk.querySelector("[data-item]");
    if (button.hasAttribute("data-undo")) ask("/label/undo", {});
    else if (item) ask("/label", { item_id: item.dataset.item, label: button.dataset.class ?? null });
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !annotator || !asked.hidden) return;
    if (event.target.closest("input, textarea, select")) return;
    const find = { u: "[data-undo]", s: "[data-skip]" }[event.key.toLowerCase()]
      || (/^[1-9]$/.test(event.key) && `[data-key="${event.key}"]`);
    const button = find && desk.querySelector(find);
    if (button) { event.preventDefault(); button.click(); }
  });

  const name = remembered();
  if (name) begin(name); else rename();
}
