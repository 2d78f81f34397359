// The gallery of near-duplicates: hides, shows and reorders what the page has already, and takes down what whoever looks at
// it judges, by mouse or keys. The state of the controls travels in the address after "#?", so that it goes along to the next page and into a
// bookmark.
(() => {
  "use strict";
  const tools = document.querySelector(".tools[role=search]");
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
  // `pairs`: pair to 1 (duplicates) or 0 (different); `keep`: id of a kept one to that of the one to keep in its place;
  // `undo`: what changes had been; `pages`: how many groups of each page are judged, of how many.
  const place = "icehouse-dups " + list.dataset.search;
  const slots = { pairs: "", keep: " keep", undo: " undo", pages: " pages" }, notes = place + " notes";
  const state = { pairs: {}, keep: {}, undo: [], pages: {} };
  const page = list.dataset.page, total = Number(list.dataset.total) || groups.length;
  let kept = true;  // whether the browser keeps all of it; else this page alone knows what was judged
  function reread() {
    if (!kept) return;
    for (const [name, slot] of Object.entries(slots)) {
      try { state[name] = JSON.parse(localStorage.getItem(place + slot)) || state[name]; } catch { /* nothing kept */ }
    }
  }
  function store() {
    for (let tries = 0; tries < 2; tries += 1) {
      try {
        for (const [name, slot] of Object.entries(slots)) localStorage.setItem(place + slot, JSON.stringify(state[name]));
        kept = true;
        return;
      } catch {
        // Where there is no room for all, the judgements go before the steps back.
        try { localStorage.removeItem(place + slots.undo); state.undo = state.undo.slice(-1); } catch { break; }
      }
    }
    kept = false;
  }
  const own = (record, key) => Object.prototype.hasOwnProperty.call(record, key) ? record[key] : undefined;
  function put(record, key, value) {
    const before = own(record, key);
    if (value === undefined || value === null) delete record[key]; else record[key] = value;
    return before === undefined ? null : before;
  }
  // Edits are [pairs or keep, key, value]; all of one call are undone at once.
  function change(edits) {
    reread();
    const before = edits.map(([where, key, value]) => [where, key, put(state[where], key, value)]).reverse();
    if (edits.length) state.undo = [...state.undo, before].slice(-500);
    tell();
    store();
  }
  function undo() {
    reread();
    const last = state.undo.pop();
    for (const [where, key, value] of last || []) put(state[where], key, value);
    tell();
    store();
    return last;
  }
  // A file that was saved before another one was kept has the ends of a pair the other way round.
  const pairOf = (member) => own(state.pairs, member.pair) === undefined && own(state.pairs, member.turned) !== undefined
    ? member.turned : member.pair;
  const label = (member) => own(state.pairs, pairOf(member));
  const chosen = (group) => own(state.keep, group.keeper.id);
  function judging(group, member, value) {
    const edits = member.kind === "exact" && value === 0 ? [] : [["pairs", pairOf(member), value]];
    if (value !== 1 && chosen(group) === member.id) edits.push(["keep", group.keeper.id, undefined]);
    return edits;
  }
  function judge(group, member, value) {
    change(judging(group, member, label(member) === value ? undefined : value));
  }
  function keep(group, member) {
    const again = chosen(group) === member.id;
    const edits = [["keep", group.keeper.id, again ? undefined : member.id]];
    if (!again && label(member) !== 1) edits.push(["pairs", pairOf(member), 1]);
    change(edits);
  }
  function all(group, value) {
    change(group.others.filter((member) => !member.element.hidden).flatMap((member) => judging(group, member, value)));
  }
  function allExact() {
    change(groups.flatMap((group) => group.others.filter((member) => member.kind === "exact")
      .map((member) => ["pairs", pairOf(member), 1])));
  }
  // Equal bytes need no judgement, but where there is nothing else they stand for the group.
  function done(group) {
    const open = group.others.filter((member) => member.kind !== "exact");
    return (open.length ? open : group.others).every((member) => label(member) !== undefined);
  }

  function button(css, words, title, press) {
    const made = document.createElement("button");
    made.type = "button"; made.className = css; made.textContent = words; made.title = title;
    made.addEventListener("click", press);
    return made;
  }
  const press = (element, on) => element.setAttribute("aria-pressed", String(on));
  for (const group of groups) {
    group.keeper = group.members.find((member) => member.kind === "keeper");
    group.others = group.members.filter((member) => member !== group.keeper);
    const bulk = document.createElement("span");
    bulk.className = "bulk";
    bulk.append(
      button("yes", "\u2713 whole group", "All of this group are duplicates of the kept one (g)", () => all(group, 1)),
      button("no", "\u2717 whole group", "None of this group is one, equal bytes aside (Shift+G)", () => all(group, 0)),
    );
    group.element.querySelector("header").append(bulk);
    for (const member of group.others) {
      member.pair = JSON.stringify([group.keeper.id, member.id]);
      member.turned = JSON.stringify([member.id, group.keeper.id]);
      member.element.tabIndex = 0;
      const box = document.createElement("div");
      box.className = "judge";
      if (member.kind !== "exact") {
        member.yes = button("yes", "\u2713 duplicate", "It is a duplicate of the kept one (y)", () => judge(group, member, 1));
        member.no = button("no", "\u2717 different", "It is something else (n)", () => judge(group, member, 0));
        box.append(member.yes, member.no);
      }
      member.keep = button("keep", "\u2605 keep this", "Keep this one instead (k)", () => keep(group, member));
      box.append(member.keep);
      const image = member.element.querySelector(".frame img");
      const kept = group.keeper.element.querySelector(".frame img");
      if (image && kept) {
        const src = image.src;
        const title = "Show the kept one in this one's place, to see what differs (space)";
        member.flip = button("flip", "\u21c4 flip", title, () => {
          const on = image.src === src;
          image.src = on ? kept.src : src;
          press(member.flip, on);
        });
        press(member.flip, false);
        box.append(member.flip);
      }
      member.element.querySelector(".facts .head").after(box);
    }
  }
  function tell() {
    let ready = 0;
    for (const group of groups) {
      const instead = chosen(group);
      group.keeper.element.classList.toggle("replaced", instead !== undefined);
      const whole = done(group);
      group.element.classList.toggle("is-done", whole);
      ready += whole;
      for (const member of group.others) {
        const value = label(member);
        if (member.yes) { press(member.yes, value === 1); press(member.no, value === 0); }
        press(member.keep, instead === member.id);
        member.element.classList.toggle("is-duplicate", value === 1);
        member.element.classList.toggle("is-different", value === 0);
        member.element.classList.toggle("chosen", instead === member.id);
      }
    }
    state.pages[page] = { done: ready, of: groups.length };
    // Of another gallery of the same search, with other pages, nothing is counted.
    const mine = (name) => name.split("/")[1] === page.split("/")[1];
    const judged = Object.entries(state.pages).reduce((sum, [name, one]) => sum + (mine(name) ? one.done : 0), 0);
    const bar = field("progress");
    bar.max = total; bar.value = Math.min(judged, total);
    tools.querySelector(".progress-told").textContent = `${Math.min(judged, total)} of ${total} groups judged`;
    const count = Object.keys(state.pairs).length;
    field("save").textContent = count ? `Save ${count} judged` : "Save pairs";
    field("save").disabled = count === 0;
    if (field("apply")) {
      field("apply").textContent = count ? `Apply ${count} judged` : "Apply";
      field("apply").disabled = count === 0;
    }
    field("undo").disabled = state.undo.length === 0;
  }
  function csv() {
    reread();
    const quoted = (value) => `"${String(value).replaceAll('"', '""')}"`;
    const rows = Object.entries(state.pairs).map(([pair, value]) => {
      const [a, b] = JSON.parse(pair);
      const kept = own(state.keep, a) === b ? b : own(state.keep, b) === a ? a : null;
      return [quoted(a), quoted(b), value, kept === null ? "" : quoted(kept)].join(",");
    });
    return new Blob([["a,b,label,keep", ...rows, ""].join("\r\n")], { type: "text/csv" });
  }
  function save() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(csv());
    link.download = "judged.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }
  // A server applies what was judged to the store at once; it is in the store's record then, not in the browser's.
  async function send(to) {
    field("apply").disabled = true;
    told.textContent = "applying\u2026";
    // The name under which somebody labels here is whose judgements they are.
    let by = null;
    try { by = localStorage.getItem("icehouse-annotator"); } catch { /* then the server's user */ }
    const address = by ? `${to}&${new URLSearchParams({ by: by.slice(0, 100) })}` : to;
    let answer = null, said = null;
    const body = csv(), sent = { pairs: { ...state.pairs }, keep: { ...state.keep } };
    try {
      answer = await fetch(address, { method: "POST", body, headers: { "Content-Type": "text/csv" } });
      said = await answer.json();
    } catch { /* the server is away, or what answers is none of ours */ }
    if (said === null || !answer.ok) {
      tell();
      told.textContent = said === null ? "The server does not answer: what you judged stays in this browser" : said.detail;
      return;
    }
    // What was judged meanwhile, on another page, is still to be applied.
    reread();
    for (const where of ["pairs", "keep"]) {
      for (const [key, value] of Object.entries(sent[where])) {
        if (own(state[where], key) === value) delete state[where][key];
      }
    }
    Object.assign(state, { undo: [], pages: {} });
    store();
    // What could not be used is told on the page as it is then.
    try { sessionStorage.setItem(notes, JSON.stringify(said.problems || [])); } catch { /* not told */ }
    location.reload();
  }
  function tellProblems() {
    let problems = [];
    try {
      problems = JSON.parse(sessionStorage.getItem(notes)) || [];
      sessionStorage.removeItem(notes);
    } catch { /* nothing kept */ }
    if (!problems.length) return;
    const shown = document.createElement("ul");
    shown.className = "notes"; shown.setAttribute("role", "status");
    const most = 20, more = problems.length - most;
    for (const problem of more > 0 ? [...problems.slice(0, most), `and ${more} more`] : problems) {
      const line = document.createElement("li");
      line.textContent = problem;
      shown.append(line);
    }
    tools.before(shown);
  }
  // What was saved before, or by somebody else, goes on here; a spreadsheet may have written it again, with other separators.
  function cellsOf(text, separator) {
    const rows = [[]];
    const cell = new RegExp(`(?:"((?:[^"]|"")*)"|([^"${separator}\\r\\n]*))(${separator}|\\r?\\n|$)`, "gy");
    for (let found; cell.lastIndex < text.length && (found = cell.exec(text));) {
      rows.at(-1).push(found[1] === undefined ? found[2] : found[1].replaceAll('""', '"'));
      if (found[3] !== separator) rows.push([]);
      if (!found[0]) break;
    }
    return rows.filter((row) => row.some((one) => one !== ""));
  }
  // As `icehouse dups apply` reads them.
  const labels = {
    1: 1, "1.0": 1, true: 1, yes: 1, y: 1, duplicate: 1, same: 1, 0: 0, "0.0": 0, false: 0, no: 0, n: 0, different: 0, other: 0,
  };
  function load(text) {
    const plain = text.replace(/^\ufeff/, "").replace(/^sep=.\r?\n/i, "");
    let rows = [], at = {};
    for (const separator of [",", ";", "\t"]) {
      const [header, ...rest] = cellsOf(plain, separator);
      at = Object.fromEntries((header || []).map((name, k) => [name.trim(), k]));
      if (at.a !== undefined && at.b !== undefined && at.label !== undefined) { rows = rest; break; }
    }
    if (at.a === undefined || at.b === undefined || at.label === undefined) {
      told.textContent = "That file has no columns a, b and label: nothing was loaded";
      return;
    }
    const edits = [];
    let used = 0;
    for (const row of rows) {
      const [a, b] = [row[at.a], row[at.b]], kept = (at.keep === undefined ? "" : row[at.keep]) || "";
      const said = (row[at.label] || "").trim().toLowerCase();
      const value = said === "" && kept ? 1 : own(labels, said);
      if (!a || !b || a === b || value === undefined || (kept && kept !== a && kept !== b)) continue;
      used += 1;
      edits.push(["pairs", JSON.stringify([a, b]), value]);
      if (kept && value === 1) edits.push(kept === b ? ["keep", a, b] : ["keep", b, a]);
    }
    change(edits);
    const left = rows.length - used;
    told.textContent = `${used} judgement${used === 1 ? "" : "s"} loaded`
      + (left ? `; ${left} row${left === 1 ? "" : "s"} left out: without two ids and a label of 1 or 0` : "");
  }

  function apply() {
    const words = fields.q.value.toLowerCase().split(/\s+/).filter(Boolean);
    const on = new Set(kinds.filter((box) => box.checked).map((box) => box.value));
    const least = fields.min.value === "" ? -Infinity : Number(fields.min.value);
    const most = fields.max.value === "" ? Infinity : Number(fields.max.value);
    const bounded = least > -Infinity || most < Infinity;
    const every = kinds.every((box) => box.checked);
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
        const known = label(member) !== undefined;
        const asked = fields.judged.value === ""
          || (fields.judged.value === "yes" ? known : !known && member.kind !== "exact");
        const stays = inside && asked && (every || on.has(member.kind));
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
    remember(every);
  }

  function remember(every) {
    const address = new URLSearchParams();
    for (const [name, input] of Object.entries(fields)) {
      if (input.value !== "" && !(name === "sort" && input.value === "page")) address.set(name, input.value);
    }
    if (!every) address.set("kind", kinds.filter((box) => box.checked).map((box) => box.value).join("."));
    if (chained.checked) address.set("chained", "1");
    const hash = address.toString() ? "#?" + address : "";
    for (const link of document.querySelectorAll(".pages a")) {
      link.setAttribute("href", link.getAttribute("href").split("#")[0] + hash);
    }
    if (!hash && !location.hash.startsWith("#?")) return;
    try { history.replaceState(null, "", hash || location.pathname); } catch { /* not allowed from a file: so be it */ }
  }

  function recall() {
    if (!location.hash.startsWith("#?")) return;
    const address = new URLSearchParams(location.hash.slice(2));
    for (const [name, input] of Object.entries(fields)) {
      if (address.has(name)) input.value = address.get(name);
    }
    if (!(fields.sort.value in orders)) fields.sort.value = "page";
    const on = address.has("kind") ? address.get("kind").split(".") : null;
    if (on) for (const box of kinds) box.checked = on.includes(box.value);
    chained.checked = address.get("chained") === "1";
  }

  // Keys: the card that has the focus is the one that is judged.
  const help = document.querySelector("dialog.keys");
  help.querySelector("button").addEventListener("click", () => help.close());
  const shown = () => Array.from(list.querySelectorAll(".group:not([hidden]) .member:not([hidden])"), (element) => {
    const group = groups.find((one) => one.element.contains(element));
    return { group, member: group.members.find((one) => one.element === element) };
  }).filter((one) => one.member !== one.group.keeper);
  const focused = () => {
    const element = document.activeElement && document.activeElement.closest(".member");
    return element ? shown().find((one) => one.member.element === element) : undefined;
  };
  function step(by, open) {
    const cards = shown(), here = focused();
    let at = here ? cards.findIndex((one) => one.member === here.member) + by : by > 0 ? 0 : cards.length - 1;
    while (open && cards[at] && (cards[at].member.kind === "exact" || label(cards[at].member) !== undefined)) at += by;
    if (cards[at]) cards[at].member.element.focus();
    else if (open) told.textContent = "Nothing more to judge below, on this page";
  }
  const keys = {
    y: (one) => { if (label(one.member) !== 1) judge(one.group, one.member, 1); step(1, true); },
    n: (one) => { if (one.member.kind !== "exact" && label(one.member) !== 0) judge(one.group, one.member, 0); step(1, true); },
    k: (one) => keep(one.group, one.member),
    " ": (one) => { if (one.member.flip) one.member.flip.click(); },
    g: (one) => all(one.group, 1),
    G: (one) => all(one.group, 0),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || help.open) return;
    const target = event.target;
    if (target.closest("input, select, textarea")) return;
    const card = target.classList.contains("member");
    const arrow = card || target === document.body;
    if (event.key === "j" || (arrow && ["ArrowDown", "ArrowRight"].includes(event.key))) step(1, false);
    else if (event.key === "h" || (arrow && ["ArrowUp", "ArrowLeft"].includes(event.key) && card)) step(-1, false);
    else if (event.key === "u") undo();
    else if (event.key === "a") allExact();
    else if (event.key === "?") help.showModal();
    else if (event.key in keys && focused() && !(event.key === " " && !card)) keys[event.key](focused());
    else return;
    event.preventDefault();
  });

  tools.addEventListener("input", apply);
  tools.addEventListener("change", apply);
  field("save").addEventListener("click", save);
  field("undo").addEventListener("click", undo);
  field("exact").addEventListener("click", allExact);
  field("exact").hidden = !groups.some((group) => group.others.some((member) => member.kind === "exact"));
  field("keys").addEventListener("click", () => help.showModal());
  const picker = document.createElement("input");
  picker.type = "file"; picker.accept = ".csv,text/csv"; picker.hidden = true; picker.name = "file";
  picker.addEventListener("change", () => {
    const [file] = picker.files;
    if (file) file.text().then(load);
    picker.value = "";
  });
  field("load").after(picker);
  field("load").addEventListener("click", () => picker.click());
  window.addEventListener("storage", () => { reread(); tell(); });
  field("reset").addEventListener("click", () => {
    for (const [name, input] of Object.entries(fields)) input.value = name === "sort" ? "page" : "";
    for (const box of kinds) box.checked = true;
    chained.checked = false;
    apply();
  });
  window.addEventListener("hashchange", () => { recall(); apply(); });
  if (list.dataset.apply) {
    const made = button("main", "Apply", "Apply what was judged to the store", () => send(list.dataset.apply));
    made.name = "apply";
    field("save").before(made);
  }
  tools.hidden = false;
  reread();
  tell();
  tellProblems();
  recall();
  apply();
})();
