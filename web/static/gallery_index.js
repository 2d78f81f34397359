// The gallery's index: what was set on one page holds on the next, by way of the index too.
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
