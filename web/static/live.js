// The Live page: drawn anew every two seconds, while somebody looks at it.
"use strict";

const live = document.querySelector("[data-live]");

const draw = async () => {
  if (document.hidden || live.contains(document.activeElement)) return;
  try {
    const answer = await fetch("/live", { headers: { Accept: "text/html" } });
    if (!answer.ok) return;
    // Scripts of a document that is only parsed never run; every text in it was escaped on the server besides.
    const made = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("[data-live]");
    if (made) live.replaceChildren(...made.childNodes);
  } catch {
    // The server is away for a moment: what is shown stays.
  }
};
setInterval(draw, 2000);
