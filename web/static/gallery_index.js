// The gallery's index: what was set on one page holds on the next, by way of the index too; and how far judging has come.
(() => {
  "use strict";
  const album = document.querySelector(".album");
  const carry = () => {
    const hash = location.hash.startsWith("#?") ? location.hash : "";
    for (const link of document.querySelectorAll(".album a")) {
      link.setAttribute("href", link.getAttribute("href").split("#")[0] + hash);
    }
  };
  const progress = () => {
    let pages = {};
    try { pages = JSON.parse(localStorage.getItem(`icehouse-dups ${album.dataset.search} pages`)) || {}; } catch { return; }
    let judged = 0;
    for (const link of album.querySelectorAll("a")) {
      const known = pages[link.dataset.page];
      const told = link.querySelector(".judged");
      told.hidden = !known || known.done === 0;
      if (!known) continue;
      judged += known.done;
      told.textContent = `${known.done} of ${known.of} judged`;
      link.classList.toggle("is-done", known.done === known.of);
    }
    const told = document.querySelector(".progress-told");
    told.textContent = `${judged} of ${album.dataset.total} groups judged`;
    told.hidden = judged === 0;
  };
  window.addEventListener("hashchange", carry);
  window.addEventListener("storage", progress);
  window.addEventListener("pageshow", progress);
  carry();
  progress();
})();
