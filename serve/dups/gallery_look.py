"""Style and script of the duplicates' gallery.

The script hides, shows and reorders what the page has already, and takes down what whoever looks at it judges.
"""

from __future__ import annotations

from ..sheet import STYLE as SHEET

__all__ = ["INDEX_SCRIPT", "SCRIPT", "STYLE"]

STYLE = (
    SHEET
    + """
:root {
  --exact: #14603a; --exact-well: #e0f2e8; --perceptual: #0a587c; --perceptual-well: #e0f0f8;
  --embedding: #5a389f; --embedding-well: #eee8fa; --indirect: #8a4800; --indirect-well: #fdeeda;
  --kept: #14603a; --kept-ink: #ffffff; --diff: #8a4800; --diff-well: #fdeeda;
}
@media (prefers-color-scheme: dark) {
  :root {
    --exact: #86dcaa; --exact-well: #123022; --perceptual: #84cdec; --perceptual-well: #10303f;
    --embedding: #c6b0f7; --embedding-well: #2a2044; --indirect: #f0bb6d; --indirect-well: #38280f;
    --kept: #86dcaa; --kept-ink: #07210f; --diff: #f0bb6d; --diff-well: #38280f;
  }
}
.vh { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
a { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; border-radius: .3rem; }
.stats { display: flex; flex-wrap: wrap; gap: .6rem 2.2rem; margin: 1.2rem 0 0; padding: 0; }
.stats div { display: flex; flex-direction: column-reverse; }
.stats dt { color: var(--soft); font-size: .78rem; }
.stats dd { margin: 0; font-size: 1.35rem; font-weight: 650; font-variant-numeric: tabular-nums; line-height: 1.25; }
.notes { margin: 1rem 0 0; padding: .6rem .9rem .6rem 1.9rem; color: var(--soft); font-size: .84rem; max-width: 60rem; }
.notes li { overflow-wrap: anywhere; }
.pages {
  display: flex; flex-wrap: wrap; gap: .4rem .6rem; align-items: center; margin: 1.2rem 0 0; font-size: .88rem;
}
.pages a, .pages span {
  padding: .35rem .8rem; border-radius: .5rem; border: 1px solid var(--line); background: var(--card);
  text-decoration: none;
}
.pages .here { border-color: transparent; background: none; color: var(--soft); }
.pages .off { color: var(--soft); opacity: .6; }
.tools {
  display: flex; flex-wrap: wrap; gap: .6rem 1.2rem; align-items: end; margin: 1.2rem 0 0; padding: .8rem 1rem;
  background: var(--card); border: 1px solid var(--line); border-radius: .8rem; font-size: .86rem;
}
.tools[hidden] { display: none; }
.tools fieldset { border: 0; margin: 0; padding: 0; min-width: 0; }
.tools legend, .tools .name { color: var(--soft); font-size: .76rem; padding: 0; display: block; margin-bottom: .2rem; }
.tools .row { display: flex; flex-wrap: wrap; gap: .3rem .9rem; align-items: center; min-height: 2.1rem; }
.tools label { display: inline-flex; gap: .35rem; align-items: center; }
.tools label.field { display: block; }
.tools input[type=search], .tools input[type=number], .tools select, .tools button {
  font: inherit; color: inherit; background: var(--well); border: 1px solid var(--line); border-radius: .45rem;
  padding: .3rem .55rem; min-height: 2.1rem;
}
.tools input[type=search] { width: min(15rem, 100%); }
.tools input[type=number] { width: 5.6rem; }
.tools input[type=checkbox] { width: 1.05rem; height: 1.05rem; accent-color: var(--accent); margin: 0; }
.tools button { cursor: pointer; }
.tools button:disabled { color: var(--soft); opacity: .6; cursor: default; }
.tools output { color: var(--soft); margin-left: auto; align-self: center; font-variant-numeric: tabular-nums; }
.groups {
  display: grid; gap: 1.1rem; margin: 1.4rem 0 0;
  grid-template-columns: repeat(auto-fill, minmax(min(32rem, 100%), 1fr));
}
.group {
  grid-column: 1 / -1; min-width: 0;
  padding: 1rem clamp(.7rem, 1.6vw, 1.2rem) 1.2rem;
  border: 1px solid var(--line); border-radius: 1rem;
  background: color-mix(in srgb, var(--card) 45%, var(--ground)); scroll-margin-top: 1rem;
}
.group.pair { grid-column: auto; }
.sides {
  display: grid; gap: .8rem; margin: .8rem 0 0; align-items: start;
  grid-template-columns: minmax(0, 15rem) minmax(0, 1fr);
}
/* However many there are, the kept one stays beside those that are looked at. */
.sides > ul { position: sticky; top: .6rem; }
.group.pair .sides { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); align-items: stretch; }
.group.is-chained { border: 2px solid var(--diff); }
.group[hidden], .member[hidden] { display: none; }
.group > header { display: flex; flex-wrap: wrap; gap: .25rem .8rem; align-items: baseline; max-width: none; }
.group h2 { font-size: 1.05rem; margin: 0; }
.group .why { margin: 0; color: var(--soft); font-size: .84rem; overflow-wrap: anywhere; }
.group .why b { color: var(--kept); font-weight: 600; }
.warn {
  display: inline-block; padding: .08rem .55rem; border-radius: 1rem; background: var(--diff-well); color: var(--diff);
  font-size: .78rem; font-weight: 650; line-height: 1.5;
}
.members {
  list-style: none; margin: 0; padding: 0; display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(min(13.5rem, 100%), 1fr));
}
.member.kept { border: 2px solid var(--kept); }
.member .frame { aspect-ratio: 4 / 3; }
.member .facts { gap: .4rem; padding: .65rem .75rem .75rem; }
.member .head { flex-wrap: wrap; gap: .1rem .6rem; }
.badge {
  display: inline-block; padding: .05rem .55rem; border-radius: 1rem; font-size: .76rem; font-weight: 650; line-height: 1.6;
  white-space: nowrap;
}
.badge.keep { background: var(--kept); color: var(--kept-ink); }
.badge.exact { background: var(--exact-well); color: var(--exact); }
.badge.perceptual { background: var(--perceptual-well); color: var(--perceptual); }
.badge.embedding { background: var(--embedding-well); color: var(--embedding); }
.badge.indirect { background: var(--indirect-well); color: var(--indirect); }
.scores { color: var(--soft); font-size: .8rem; white-space: nowrap; font-variant-numeric: tabular-nums; }
.scores b { color: var(--ink); font-weight: 600; }
.sheet { display: grid; grid-template-columns: auto 1fr; gap: .1rem .7rem; margin: 0; font-size: .82rem; }
.sheet dt { color: var(--soft); }
.sheet dd { margin: 0; min-width: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.diff { background: var(--diff-well); color: var(--diff); border-radius: .3rem; padding: 0 .3em; font-weight: 600; }
.judge { display: flex; flex-wrap: wrap; gap: .35rem; padding: .1rem 0; }
.judge button {
  font: inherit; font-size: .78rem; line-height: 1.5; color: inherit; background: none; border: 1px solid var(--line);
  border-radius: .45rem; padding: .12rem .5rem; cursor: pointer;
}
.judge button:hover { border-color: var(--accent); }
.judge [aria-pressed=true] { font-weight: 650; border-color: currentColor; }
.judge .yes[aria-pressed=true] { background: var(--exact-well); color: var(--exact); }
.judge .no[aria-pressed=true] { background: var(--diff-well); color: var(--diff); }
.judge .flip[aria-pressed=true] { background: var(--kept); color: var(--kept-ink); }
.member:has(.flip[aria-pressed=true]) .frame img { outline: 3px solid var(--kept); outline-offset: -3px; }
.member:has(.no[aria-pressed=true]) .frame img { opacity: .45; }
.same { color: var(--soft); font-size: .82rem; margin: 0; font-style: italic; }
.member .said { font-size: .86rem; max-height: 11em; }
.said mark { background: var(--diff-well); color: var(--diff); border-radius: .2rem; padding: 0 .1em; }
.copy { font-size: .8rem; color: var(--soft); overflow-wrap: anywhere; margin: 0; }
.more { margin: .8rem 0 0; color: var(--soft); font-size: .88rem; }
.album {
  list-style: none; margin: 1.4rem 0 0; padding: 0; display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr));
}
.album a {
  display: block; height: 100%; padding: .8rem .9rem; border: 1px solid var(--line); border-radius: .8rem; color: inherit;
  background: var(--card); text-decoration: none; box-shadow: var(--shadow);
}
.album a:hover { border-color: var(--accent); }
.album .name { color: var(--accent); font-weight: 650; }
.album .strip { display: flex; gap: .3rem; margin: .5rem 0 0; height: 3.2rem; overflow: hidden; }
.album .strip img { height: 100%; width: 3.2rem; object-fit: cover; border-radius: .35rem; background: var(--well); }
.album .told { color: var(--soft); font-size: .82rem; display: block; }
@media (max-width: 30rem) {
  body { padding: .8rem; }
  .sides { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: .5rem; }
  .members { gap: .5rem; }
  .groups { gap: .8rem; }
  .group { padding: .8rem .55rem .9rem; }
  .member .facts { padding: .5rem .55rem .6rem; }
  .member .sheet { grid-template-columns: 1fr; }
  .member .sheet dt { display: none; }
  .tools output { margin-left: 0; }
}
@media print { .tools, .judge { display: none; } .group { break-inside: avoid; } }
"""
)

# The state of the controls travels in the address after "#?", so that it goes along to the next page and into a bookmark.
SCRIPT = """
(() => {
  "use strict";
  const tools = document.querySelector(".tools");
  if (!tools) return;
  const list = document.querySelector(".groups");
  const number = (value) => value === "" || value === undefined ? NaN : Number(value);
  const groups = Array.from(list.querySelectorAll(".group"), (element, place) => ({
    element, place,
    chained: element.dataset.chained === "1",
    size: number(element.dataset.size),
    score: number(element.dataset.score),
    number: number(element.dataset.number),
    members: Array.from(element.querySelectorAll(".member"), (member) => ({
      element: member, kind: member.dataset.kind, cosine: number(member.dataset.cosine), text: null,
      id: JSON.parse(member.dataset.id), pair: null,
    })),
  }));
  const field = (name) => tools.querySelector(`[name="${name}"]`);
  const kinds = Array.from(tools.querySelectorAll('[name="kind"]'));
  const fields = {
    q: field("q"), min: field("min"), max: field("max"), sort: field("sort"), judged: field("judged"),
  };
  const chained = field("chained");
  const told = tools.querySelector("output");
  const orders = {
    page: (a, b) => a.place - b.place,
    chained: (a, b) => b.chained - a.chained || a.score - b.score || a.place - b.place,
    score: (a, b) => a.score - b.score || a.place - b.place,
    size: (a, b) => b.size - a.size || a.place - b.place,
    group: (a, b) => a.number - b.number,
  };
  let sorted = "page";

  // Judgements are kept by the browser for all pages of this search, if it keeps anything for files; else by the page.
  const place = "icehouse-dups " + list.dataset.search;
  let judged = {};
  function reread() {
    try { judged = JSON.parse(localStorage.getItem(place)) || judged; } catch { /* nothing kept */ }
  }
  function judge(pair, label) {
    reread();
    if (judged[pair] === label) delete judged[pair]; else judged[pair] = label;
    try { localStorage.setItem(place, JSON.stringify(judged)); } catch { /* then for this page only */ }
  }
  function button(css, words, title, press) {
    const made = document.createElement("button");
    made.type = "button"; made.className = css; made.textContent = words; made.title = title;
    made.addEventListener("click", press);
    return made;
  }
  const press = (element, on) => element.setAttribute("aria-pressed", String(on));
  for (const group of groups) {
    const keeper = group.members.find((member) => member.kind === "keeper");
    for (const member of group.members) {
      if (member.kind === "keeper") continue;
      const box = document.createElement("div");
      box.className = "judge";
      if (member.kind !== "exact") {
        member.pair = JSON.stringify([keeper.id, member.id]);
        member.yes = button("yes", "\u2713 duplicate", "It is a duplicate of the kept one",
          () => { judge(member.pair, 1); tell(); });
        member.no = button("no", "\u2717 different", "It is something else",
          () => { judge(member.pair, 0); tell(); });
        box.append(member.yes, member.no);
      }
      const own = member.element.querySelector(".frame img"), kept = keeper.element.querySelector(".frame img");
      if (own && kept) {
        const src = own.src;
        const flip = button("flip", "\u21c4 flip", "Show the kept one in this one's place, to see what differs", () => {
          const on = own.src === src;
          own.src = on ? kept.src : src;
          press(flip, on);
        });
        press(flip, false);
        box.append(flip);
      }
      if (box.firstChild) member.element.querySelector(".facts .head").after(box);
    }
  }
  function tell() {
    for (const group of groups) {
      for (const member of group.members) {
        if (member.pair === null) continue;
        press(member.yes, judged[member.pair] === 1);
        press(member.no, judged[member.pair] === 0);
      }
    }
    const count = Object.keys(judged).length;
    field("save").textContent = count ? `Save ${count} judged` : "Save pairs";
    field("save").disabled = count === 0;
  }
  function save() {
    reread();
    const quoted = (value) => `"${String(value).replaceAll('"', '""')}"`;
    const rows = Object.entries(judged).map(([pair, label]) => [...JSON.parse(pair).map(quoted), label].join(","));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([["a,b,label", ...rows, ""].join("\\r\\n")], { type: "text/csv" }));
    link.download = "judged.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  function apply() {
    const words = fields.q.value.toLowerCase().split(/\\s+/).filter(Boolean);
    const on = new Set(kinds.filter((box) => box.checked).map((box) => box.value));
    const least = fields.min.value === "" ? -Infinity : Number(fields.min.value);
    const most = fields.max.value === "" ? Infinity : Number(fields.max.value);
    const bounded = least > -Infinity || most < Infinity;
    const all = kinds.every((box) => box.checked);
    let shownGroups = 0, shownMembers = 0;
    for (const group of groups) {
      let left = 0, hit = words.length === 0;
      for (const member of group.members) {
        if (words.length && !hit) {
          member.text ??= Array.from(
            member.element.querySelectorAll(".id, .path, .said, .chips, .copy"), (told) => told.textContent,
          ).join("\\n").toLowerCase();
          hit = words.every((word) => member.text.includes(word));
        }
        if (member.kind === "keeper") continue;
        const inside = !bounded || (member.cosine >= least && member.cosine <= most);
        const known = member.pair !== null && member.pair in judged;
        const asked = fields.judged.value === "" || (fields.judged.value === "yes" ? known : !known && member.pair !== null);
        const stays = inside && asked && (all || on.has(member.kind));
        member.element.hidden = !stays;
        left += stays;
      }
      const visible = hit && left > 0 && (!chained.checked || group.chained);
      group.element.hidden = !visible;
      if (visible) { shownGroups += 1; shownMembers += left; }
    }
    if (fields.sort.value !== sorted) {
      sorted = fields.sort.value;
      groups.slice().sort(orders[sorted] || orders.page).forEach((group) => list.append(group.element));
    }
    const s = (count) => count === 1 ? "" : "s";
    told.textContent = `${shownGroups} of ${groups.length} group${s(groups.length)}, `
      + `${shownMembers} duplicate${s(shownMembers)} on this page`;
    remember(all);
  }

  function remember(all) {
    const state = new URLSearchParams();
    for (const [name, input] of Object.entries(fields)) {
      if (input.value !== "" && !(name === "sort" && input.value === "page")) state.set(name, input.value);
    }
    if (!all) state.set("kind", kinds.filter((box) => box.checked).map((box) => box.value).join("."));
    if (chained.checked) state.set("chained", "1");
    const hash = state.toString() ? "#?" + state : "";
    for (const link of document.querySelectorAll(".pages a")) {
      link.setAttribute("href", link.getAttribute("href").split("#")[0] + hash);
    }
    if (!hash && !location.hash.startsWith("#?")) return;
    try { history.replaceState(null, "", hash || location.pathname); } catch { /* not allowed from a file: so be it */ }
  }

  function recall() {
    if (!location.hash.startsWith("#?")) return;
    const state = new URLSearchParams(location.hash.slice(2));
    for (const [name, input] of Object.entries(fields)) {
      if (state.has(name)) input.value = state.get(name);
    }
    if (!(fields.sort.value in orders)) fields.sort.value = "page";
    const on = state.has("kind") ? state.get("kind").split(".") : null;
    if (on) for (const box of kinds) box.checked = on.includes(box.value);
    chained.checked = state.get("chained") === "1";
  }

  tools.addEventListener("input", apply);
  tools.addEventListener("change", apply);
  field("save").addEventListener("click", save);
  window.addEventListener("storage", () => { reread(); tell(); });
  field("reset").addEventListener("click", () => {
    for (const [name, input] of Object.entries(fields)) input.value = name === "sort" ? "page" : "";
    for (const box of kinds) box.checked = true;
    chained.checked = false;
    apply();
  });
  window.addEventListener("hashchange", () => { recall(); apply(); });
  tools.hidden = false;
  reread();
  tell();
  recall();
  apply();
})();
"""

# What was set on one page holds on the next, by way of the album too.
INDEX_SCRIPT = """
(() => {
  "use strict";
  const carry = () => {
    const hash = location.hash.startsWith("#?") ? location.hash : "";
    for (const link of document.querySelectorAll(".album a")) {
      link.setAttribute("href", link.getAttribute("href").split("#")[0] + hash);
    }
  };
  window.addEventListener("hashchange", carry);
  carry();
})();
"""
