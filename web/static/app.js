// The application's pages: a form that answers in place, pictures that are dropped or pasted, "/" for the search field.
"use strict";

const form = document.querySelector("[data-try]");
if (form) {
  const input = form.elements.image, drop = form.querySelector("[data-drop]"), shown = drop.querySelector("img");
  const answer = document.querySelector("[data-answer]"), run = form.querySelector("[data-run]");
  let number = 0;

  const show = () => {
    if (shown.src) URL.revokeObjectURL(shown.src);
    shown.hidden = !input.files.length;
    if (input.files.length) shown.src = URL.createObjectURL(input.files[0]);
    else shown.removeAttribute("src");
  };
  const take = (files) => {
    const picture = [...files].find((file) => file.type.startsWith("image/"));
    if (!picture) return;
    const list = new DataTransfer();
    list.items.add(picture);
    input.files = list.files;
    show();
  };
  const tell = (text) => {
    const line = document.createElement("p");
    line.className = "soft";
    line.textContent = text;
    answer.replaceChildren(line);
  };

  input.addEventListener("change", show);
  form.addEventListener("reset", () => setTimeout(() => { number += 1; show(); answer.replaceChildren(); }));
  for (const kind of ["dragover", "dragenter"])
    document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const kind of ["dragleave", "dragend"]) document.addEventListener(kind, () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => take(event.clipboardData.files));

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const mine = (number += 1), query = run && run.value ? `?run=${encodeURIComponent(run.value)}` : "";
    answer.setAttribute("aria-busy", "true");
    tell("asking…");
    try {
      const response = await fetch(`/try${query}`, {
        method: "POST", body: new FormData(form), headers: { "X-Fragment": "answer" },
      });
      const html = response.headers.get("content-type").startsWith("text/html") ? await response.text() : null;
      if (mine !== number) return; // another was asked meanwhile
      // Scripts of a document that is only parsed never run; every text in it was escaped on the server besides.
      if (html !== null) answer.replaceChildren(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
      else tell((await response.json()).detail);
    } catch {
      if (mine === number) tell("The server does not answer.");
    }
    answer.removeAttribute("aria-busy");
  });
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    const field = document.querySelector("[data-search], #text");
    if (field) { event.preventDefault(); field.focus(); }
  }
});

for (const button of document.querySelectorAll("[data-undo]"))
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const answer = await fetch(button.dataset.undo, { method: "POST" });
      if (answer.ok) location.reload();
      else button.textContent = (await answer.json()).detail;
    } catch {
      button.textContent = "The server does not answer: try again";
      button.disabled = false;
    }
  });
