// The gallery of near-duplicates: hides, shows and reorders what the page has already, and takes down what whoever looks at
// it judges. The state of the controls travels in the address after "#?", so that it goes along to the next page and into a
// bookmark.
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
    link.href = URL.createObjectURL(new Blob([["a,b,label", ...rows, ""].join("\r\n")], { type: "text/csv" }));
    link.download = "judged.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  function apply() {
    const words = fields.q.value.toLowerCase().split(/\s+/).filter(Boolean);
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
          ).join("\n").toLowerCase();
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
