// The map: points drawn into the pixels of a canvas, moved, zoomed, chosen by click, lasso, rectangle or keyboard.
"use strict";

const canvas = document.querySelector("canvas[data-map]");

if (canvas) {
  const pen = canvas.getContext("2d"), find = (name) => document.querySelector(`[data-${name}]`);
  const tools = find("map-tools"), legend = find("legend"), told = find("told"), tip = find("tip");
  const COLOURS = Number(canvas.dataset.colours), PER_PAGE = Number(canvas.dataset.perPage), NONE = 65535, GRID = 256;
  const name = canvas.dataset.map;

  let rows = new Uint32Array(0), xy = new Float32Array(0), version = "", n = 0;
  let codes = new Uint16Array(0), categories = [], without = 0, hidden = new Set(); // places of categories, and NONE
  let grid = null; // points sorted into cells: where each cell starts, and the points
  let bounds = [0, 0, 1, 1];
  let scale = 1, left = 0, top = 0; // a point lies at (left + x * scale, top - y * scale), in CSS pixels
  let chosen = new Int32Array(0), marked = new Uint8Array(0), pageShown = 0, asked = 0;
  let path = null, box = null; // what is being drawn around points
  let image = null, words = null, frames = 0, waiting = false, fitted = true;

  const mode = () => tools.elements.mode.value;

  // Reading

  const read = async (address) => {
    const answer = await fetch(address);
    if (!answer.ok) throw new Error((await answer.json()).detail);
    const bytes = await answer.arrayBuffer(), size = new DataView(bytes).getUint32(0, true);
    return { head: JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, size))), bytes, at: 4 + size };
  };
  const address = (what, more = {}) => `/map/${what}?${new URLSearchParams({ map: name, ...more })}`;

  const loadPoints = async () => {
    const { head, bytes, at } = await read(address("points"));
    n = head.n;
    version = head.version;
    rows = new Uint32Array(bytes, at, n);
    xy = new Float32Array(bytes, at + 4 * n, 2 * n);
    marked = new Uint8Array(n);
    chosen = new Int32Array(0);
    cards.clear();
    sort();
  };
  const loadColours = async () => {
    const by = tools.elements.by.value, mine = (asked += 1);
    const { head, bytes, at } = await read(address("colours", { by }));
    if (mine !== asked) return; // another was asked for meanwhile
    if (head.version !== version) { // the store has changed in between
      await loadPoints();
      fit();
      return loadColours();
    }
    codes = new Uint16Array(bytes, at, n);
    categories = head.categories;
    without = head.none;
    hidden = new Set();
    drawLegend();
    redraw();
  };

  // Cells of a grid over all points: a look-up goes through those that it touches, and no others.
  const sort = () => {
    let [x0, y0, x1, y1] = n ? [Infinity, Infinity, -Infinity, -Infinity] : [0, 0, 1, 1];
    for (let i = 0; i < n; i += 1) {
      const x = xy[2 * i], y = xy[2 * i + 1];
      if (x < x0) x0 = x;
      if (x > x1) x1 = x;
      if (y < y0) y0 = y;
      if (y > y1) y1 = y;
    }
    bounds = [x0, y0, x1, y1];
    const starts = new Uint32Array(GRID * GRID + 1), points = new Uint32Array(n);
    const cell = (i) => row(xy[2 * i + 1]) * GRID + column(xy[2 * i]);
    for (let i = 0; i < n; i += 1) starts[cell(i) + 1] += 1;
    for (let c = 0; c < GRID * GRID; c += 1) starts[c + 1] += starts[c];
    const next = starts.slice();
    for (let i = 0; i < n; i += 1) points[next[cell(i)]++] = i;
    grid = { starts, points };
  };
  const place = (value, low, high) =>
    Math.max(0, Math.min(GRID - 1, Math.floor(((value - low) / (high - low || 1)) * GRID)));
  const column = (x) => place(x, bounds[0], bounds[2]);
  const row = (y) => place(y, bounds[1], bounds[3]);
  // Visible points of the cells that a rectangle (in the map's coordinates) touches, and that `meets` takes.
  const within = (x0, y0, x1, y1, meets) => {
    const found = [];
    for (let r = row(y0); r <= row(y1); r += 1) {
      const from = grid.starts[r * GRID + column(x0)], to = grid.starts[r * GRID + column(x1) + 1];
      for (let k = from; k < to; k += 1) {
        const i = grid.points[k];
        if (!hidden.has(codes[i]) && meets(xy[2 * i], xy[2 * i + 1])) found.push(i);
      }
    }
    return Int32Array.from(found).sort();
  };

  // Drawing

  const redraw = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  };
  const rgba = (colour, alpha = 255) => { // a CSS colour as the number that the image's buffer holds
    const probe = new OffscreenCanvas(1, 1).getContext("2d");
    probe.fillStyle = colour;
    probe.fillRect(0, 0, 1, 1);
    const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
    return ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;
  };
  let palette = new Uint32Array(0), faint = new Uint32Array(0), ink = "#000";
  const takePalette = () => {
    const style = getComputedStyle(document.documentElement), of = (key) => style.getPropertyValue(key).trim();
    const keys = Array.from({ length: COLOURS }, (_, i) => `--map${i}`);
    const colours = [...keys, "--map-rest", "--map-none"].map(of);
    palette = Uint32Array.from(colours, (colour) => rgba(colour));
    faint = Uint32Array.from(colours, (colour) => rgba(colour, 56));
    ink = of("--ink");
  };
  const hue = (code) => code === NONE ? "--map-none" : code < COLOURS ? `--map${code}` : "--map-rest";
  const place_of = (code) => code === NONE ? COLOURS + 1 : Math.min(code, COLOURS);

  const disc = (radius, width) => { // places of the pixels of a disc around a pixel
    const found = [];
    const reach = Math.ceil(radius);
    for (let dy = -reach; dy <= reach; dy += 1)
      for (let dx = -reach; dx <= reach; dx += 1)
        if (dx * dx + dy * dy <= radius * radius + 0.3) found.push(dy * width + dx);
    return found;
  };
  const draw = () => {
    const ratio = devicePixelRatio || 1, w = canvas.clientWidth, h = canvas.clientHeight;
    const width = Math.round(w * ratio), height = Math.round(h * ratio);
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
      image = null;
      if (fitted) fit(false);
    }
    if (!image) {
      image = pen.createImageData(width, height);
      words = new Uint32Array(image.data.buffer);
    }
    words.fill(0);
    const shown = Math.sqrt((w * h) / Math.max(n, 1)), zoom = scale / (fitScale() || 1);
    const radius = Math.max(0.85, Math.min(6, 0.25 * shown * Math.sqrt(zoom))) * ratio;
    const stamp = disc(radius, width), edge = Math.ceil(radius) + 1, dim = chosen.length > 0;
    const paint = (i, colours) => {
      const px = Math.round((left + xy[2 * i] * scale) * ratio), py = Math.round((top - xy[2 * i + 1] * scale) * ratio);
      if (px < edge || py < edge || px >= width - edge || py >= height - edge) return;
      const colour = colours[place_of(codes[i])], at = py * width + px;
      for (let k = 0; k < stamp.length; k += 1) words[at + stamp[k]] = colour;
    };
    for (let pass = 0; pass < 2; pass += 1) // points without a category lie below the others
      for (let i = 0; i < n; i += 1) {
        const code = codes[i];
        if ((code === NONE) === (pass === 0) && !(dim && marked[i]) && !hidden.has(code)) paint(i, dim ? faint : palette);
      }
    for (let k = 0; k < chosen.length; k += 1) paint(chosen[k], palette);
    pen.putImageData(image, 0, 0);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.strokeStyle = ink;
    pen.lineWidth = 1.5;
    const outline = box ? [[box[0], box[1]], [box[2], box[1]], [box[2], box[3]], [box[0], box[3]]] : path;
    if (outline) {
      pen.setLineDash([5, 4]);
      pen.beginPath();
      outline.forEach(([x, y], k) => (k ? pen.lineTo(x, y) : pen.moveTo(x, y)));
      pen.closePath();
      pen.stroke();
      pen.setLineDash([]);
    }
    if (canvas.matches(":focus-visible")) ring(w / 2, h / 2, RING);
    if (chosen.length === 1) ring(left + xy[2 * chosen[0]] * scale, top - xy[2 * chosen[0] + 1] * scale, 8);
    pen.setTransform(1, 0, 0, 1, 0, 0);
    frames += 1;
    canvas.dataset.frames = frames;
    canvas.dataset.view = `${scale} ${left} ${top}`;
  };
  const RING = 18;
  const ring = (x, y, radius) => {
    pen.beginPath();
    pen.arc(x, y, radius, 0, 7);
    pen.stroke();
  };

  // Moving

  const fitScale = () => {
    const [x0, y0, x1, y1] = bounds, pad = 0.94;
    return pad * Math.min(canvas.clientWidth / (x1 - x0 || 1), canvas.clientHeight / (y1 - y0 || 1));
  };
  const fit = (again = true) => {
    const [x0, y0, x1, y1] = bounds;
    scale = fitScale();
    left = canvas.clientWidth / 2 - ((x0 + x1) / 2) * scale;
    top = canvas.clientHeight / 2 + ((y0 + y1) / 2) * scale;
    fitted = true;
    if (again) redraw();
  };
  const move = (dx, dy) => {
    left += dx;
    top += dy;
    fitted = false;
    redraw();
  };
  const zoom = (by, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) => {
    const wanted = Math.max(fitScale() / 4, Math.min(fitScale() * 5000, scale * by)), factor = wanted / scale;
    left = x - (x - left) * factor;
    top = y - (y - top) * factor;
    scale = wanted;
    fitted = false;
    redraw();
  };

  // Choosing

  const mapX = (x) => (x - left) / scale, mapY = (y) => (top - y) / scale;
  const inside = (polygon, x, y) => {
    let odd = false;
    for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i, i += 1) {
      const [ax, ay] = polygon[i], [bx, by] = polygon[j];
      if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) odd = !odd;
    }
    return odd;
  };
  const chooseLasso = (line) => {
    const polygon = line.map(([x, y]) => [mapX(x), mapY(y)]);
    const xs = polygon.map((p) => p[0]), ys = polygon.map((p) => p[1]);
    choose(within(Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys), (x, y) => inside(polygon, x, y)));
  };
  const chooseBox = (ax, ay, bx, by) => {
    const [x0, x1] = [mapX(Math.min(ax, bx)), mapX(Math.max(ax, bx))];
    const [y0, y1] = [mapY(Math.max(ay, by)), mapY(Math.min(ay, by))];
    choose(within(x0, y0, x1, y1, (x, y) => x >= x0 && x <= x1 && y >= y0 && y <= y1));
  };
  const chooseRing = (x, y, radius) => {
    const cx = mapX(x), cy = mapY(y), r = radius / scale;
    choose(within(cx - r, cy - r, cx + r, cy + r, (px, py) => (px - cx) ** 2 + (py - cy) ** 2 <= r * r));
  };
  const nearest = (x, y, radius = 9) => {
    const cx = mapX(x), cy = mapY(y), r = radius / scale;
    let best = -1, least = r * r;
    for (const i of within(cx - r, cy - r, cx + r, cy + r, () => true)) {
      const distance = (xy[2 * i] - cx) ** 2 + (xy[2 * i + 1] - cy) ** 2;
      if (distance <= least) { best = i; least = distance; }
    }
    return best;
  };
  const choose = (points) => {
    marked.fill(0);
    for (const i of points) marked[i] = 1;
    chosen = points;
    pageShown = 0;
    canvas.dispatchEvent(new CustomEvent("chosen", { detail: { rows: Array.from(points, (i) => rows[i]) } }));
    showItems();
    redraw();
  };

  // Beside the map

  let request = 0;
  const showItems = async () => {
    const mine = (request += 1), count = chosen.length, pages = Math.max(1, Math.ceil(count / PER_PAGE)), items = find("items");
    find("count").textContent = count === 1 ? "1 item" : count ? `${count.toLocaleString("en")} items` : "Nothing chosen";
    find("hint").hidden = count > 0;
    find("clear").hidden = count === 0;
    find("pages").hidden = pages < 2;
    find("here").textContent = `page ${pageShown + 1} of ${pages.toLocaleString("en")}`;
    find("turn='-1'").disabled = pageShown === 0;
    find("turn='1'").disabled = pageShown >= pages - 1;
    canvas.dataset.chosen = count;
    if (!count) return items.replaceChildren();
    const part = chosen.slice(pageShown * PER_PAGE, (pageShown + 1) * PER_PAGE);
    items.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(address("items", { version, rows: Array.from(part, (i) => rows[i]).join(",") }));
      const html = answer.ok ? await answer.text() : null, problem = answer.ok ? "" : (await answer.json()).detail;
      if (mine !== request) return;
      // Scripts of a document that is only parsed never run; every text in it was escaped on the server besides.
      if (html !== null) items.replaceChildren(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
      else items.textContent = problem;
    } catch {
      if (mine === request) items.textContent = "The server does not answer.";
    }
    if (mine === request) items.removeAttribute("aria-busy");
  };
  for (const button of document.querySelectorAll("[data-turn]"))
    button.addEventListener("click", () => { pageShown += Number(button.dataset.turn); showItems(); });

  const drawLegend = () => {
    const entries = categories.map(({ name: text, count }, code) => ({ text, count, code }));
    if (without) entries.push({ text: "none", count: without, code: NONE });
    legend.replaceChildren(...entries.map(({ text, count, code }) => {
      const item = document.createElement("li"), button = document.createElement("button"), dot = document.createElement("i");
      const label = document.createElement("bdi"), number = document.createElement("span");
      button.type = "button";
      button.setAttribute("aria-pressed", "true");
      dot.style.setProperty("--hue", `var(${hue(code)})`);
      label.textContent = text;
      number.className = "num";
      number.textContent = count.toLocaleString("en");
      button.append(dot, label, number);
      button.addEventListener("click", () => {
        if (!hidden.delete(code)) hidden.add(code);
        button.setAttribute("aria-pressed", String(!hidden.has(code)));
        choose(chosen.filter((i) => !hidden.has(codes[i])));
      });
      item.append(button);
      return item;
    }));
  };

  // Pointers: one draws or moves, two pinch.

  const pointers = new Map();
  let travelled = 0, drawing = null, pinch = null;
  const at = (event) => {
    const frame = canvas.getBoundingClientRect();
    return [event.clientX - frame.left - canvas.clientLeft, event.clientY - frame.top - canvas.clientTop];
  };
  const spread = () => {
    const [[ax, ay], [bx, by]] = [...pointers.values()];
    return { distance: Math.hypot(ax - bx, ay - by) || 1, x: (ax + bx) / 2, y: (ay + by) / 2 };
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, at(event));
    leave();
    if (pointers.size === 2) {
      pinch = spread();
      drawing = path = box = null;
      travelled = Infinity; // no click ends it
      return;
    }
    travelled = 0;
    drawing = event.shiftKey && mode() === "move" ? "lasso" : mode();
    if (drawing === "lasso") path = [at(event)];
    if (drawing === "box") box = [...at(event), ...at(event)];
    canvas.classList.toggle("held", drawing === "move");
  });
  canvas.addEventListener("pointermove", (event) => {
    const here = at(event), before = pointers.get(event.pointerId);
    if (!before) return;
    pointers.set(event.pointerId, here);
    travelled += Math.hypot(here[0] - before[0], here[1] - before[1]);
    if (pointers.size === 2 && pinch) {
      const now = spread();
      move(now.x - pinch.x, now.y - pinch.y);
      zoom(now.distance / pinch.distance, now.x, now.y);
      pinch = now;
    } else if (drawing === "move") move(here[0] - before[0], here[1] - before[1]);
    else if (drawing === "lasso") { path.push(here); redraw(); }
    else if (drawing === "box") { box = [box[0], box[1], ...here]; redraw(); }
  });
  const release = (event) => {
    if (!pointers.delete(event.pointerId)) return;
    const [x, y] = at(event), was = drawing, line = path, frame = box;
    pinch = null;
    drawing = path = box = null;
    canvas.classList.remove("held");
    if (event.type === "pointercancel" || was === null) return redraw();
    if (travelled < 5) {
      const point = nearest(x, y);
      choose(point < 0 ? new Int32Array(0) : Int32Array.of(point));
    } else if (was === "lasso" && line.length > 2) chooseLasso(line);
    else if (was === "box") chooseBox(frame[0], frame[1], x, y);
    redraw();
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    leave();
    zoom(Math.exp(-Math.max(-100, Math.min(100, event.deltaY)) / 250), ...at(event));
  }, { passive: false });
  // The category under the pointer, and once it rests there the item's card.
  const cards = new Map();
  let under = -1, resting = 0;
  const leave = () => {
    clearTimeout(resting);
    under = -1;
    tip.hidden = true;
  };
  const showCard = async (point) => {
    let card = cards.get(rows[point]);
    if (!card) {
      const answer = await fetch(address("items", { version, rows: rows[point] })).catch(() => null);
      if (!answer || !answer.ok) return;
      // Scripts of a document that is only parsed never run; every text in it was escaped on the server besides.
      card = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector(".card");
      if (!card) return;
      if (cards.size > 200) cards.clear();
      cards.set(rows[point], card);
    }
    if (under !== point) return;
    tip.append(card.cloneNode(true));
    // Where there is no room below the pointer the card lies above it.
    const room = canvas.clientHeight - tip.offsetTop - tip.offsetHeight;
    if (room < 0) tip.style.top = `${Math.max(0, tip.offsetTop + room)}px`;
  };
  canvas.addEventListener("pointermove", (event) => {
    const point = pointers.size || event.pointerType === "touch" ? -1 : nearest(...at(event), 7);
    if (point < 0) return leave();
    if (point === under) return;
    clearTimeout(resting);
    under = point;
    const code = codes[point], [x, y] = at(event);
    tip.textContent = code === NONE ? "none" : categories[code].name;
    tip.hidden = false;
    tip.style.left = `${x + 12 + 240 < canvas.clientWidth ? x + 12 : Math.max(0, x - 240)}px`;
    tip.style.top = `${y + 14}px`;
    resting = setTimeout(() => showCard(point), 150);
  });
  canvas.addEventListener("pointerleave", leave);

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.shiftKey ? 200 : 40, w = canvas.clientWidth, h = canvas.clientHeight;
    const keys = {
      ArrowLeft: () => move(step, 0), ArrowRight: () => move(-step, 0), ArrowUp: () => move(0, step),
      ArrowDown: () => move(0, -step), "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), 0: () => fit(),
      Enter: () => event.shiftKey ? chooseBox(0, 0, w, h) : chooseRing(w / 2, h / 2, RING),
    };
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  });
  const chooseNone = () => { path = box = drawing = null; choose(new Int32Array(0)); };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && (chosen.length || drawing)) chooseNone();
  });
  find("clear").addEventListener("click", () => { chooseNone(); canvas.focus(); });
  canvas.addEventListener("focus", redraw);
  canvas.addEventListener("blur", redraw);

  for (const button of document.querySelectorAll("[data-zoom]"))
    button.addEventListener("click", () => ({ in: () => zoom(1.6), out: () => zoom(1 / 1.6), fit })[button.dataset.zoom]());
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("change", (event) => {
    canvas.dataset.mode = mode();
    if (event.target.name === "map") location.search = new URLSearchParams({ map: event.target.value });
    if (event.target.name === "by") attempt(loadColours);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { takePalette(); redraw(); });
  new ResizeObserver(redraw).observe(canvas);

  const attempt = async (work) => {
    told.textContent = "loading…";
    try {
      await work();
      told.textContent = n === 1 ? "1 point" : `${n.toLocaleString("en")} points`;
      canvas.dataset.ready = version;
    } catch (error) {
      told.textContent = error.message;
    }
  };
  takePalette();
  canvas.dataset.mode = mode();
  attempt(async () => {
    await loadPoints();
    fit(false);
    await loadColours();
  });
}
